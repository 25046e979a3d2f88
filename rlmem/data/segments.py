"""Rows of a replay or dataset: segments at regular distances, or complete episodes."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

# One for each of any number of segments, or of episodes.
SegmentIds = Int[Tensor, "_"]
Indices = Int[Tensor, "_"]
PerEnv = Int[Tensor, "N"]


class Segments:
    """Stretches of `length` entries that begin at every `stride`-th entry of an environment's ring.

    The i-th segment of environment n (i = 0, 1, ..) has the id n * per_env + i % per_env. It exists
    from the time its last entry is written until its first one is overwritten.
    """

    def __init__(self, num_envs: int, slots: int, length: int, stride: int) -> None:
        self.per_env = slots // stride
        self.length = length
        self.stride = stride
        # Segments first .. end - 1 of each environment exist.
        self.first = torch.zeros(num_envs, dtype=torch.int64)
        self.end = torch.zeros(num_envs, dtype=torch.int64)

    def advance(self, head: PerEnv, oldest: PerEnv) -> tuple[SegmentIds, SegmentIds]:
        """The ids of the segments added and removed since the last call.

        Entries `oldest` .. `head` - 1 of each environment exist.
        """
        end = ((head - self.length) // self.stride + 1).clamp(min=0)
        first = torch.minimum((oldest + self.stride - 1) // self.stride, end)
        added = self._ids(torch.maximum(self.end, first), end)
        removed = self._ids(self.first, torch.minimum(first, self.end))
        self.first, self.end = first, end
        return added, removed

    @property
    def count(self) -> int:
        """The number of existing segments."""
        return int((self.end - self.first).sum())

    def ids(self) -> SegmentIds:
        """The ids of all existing segments."""
        return self._ids(self.first, self.end)

    def draw(self, count: int) -> SegmentIds:
        """The ids of `count` segments, drawn uniformly with replacement."""
        sizes = (self.end - self.first).cumsum(0)
        drawn = torch.randint(int(sizes[-1]), (count,))
        env = torch.searchsorted(sizes, drawn, right=True)
        last = self.end[env] - (sizes[env] - drawn)
        return env * self.per_env + last % self.per_env

    def locate(self, segment: SegmentIds) -> tuple[Indices, Indices]:
        """The environments and first entries of segments."""
        env, ring = segment // self.per_env, segment % self.per_env
        first = self.first[env]
        return env, (first + (ring - first) % self.per_env) * self.stride

    def beginning_at(self, env: Indices, entry: Indices) -> SegmentIds:
        """The ids of the segments that begin at some entries; entries inside are left out."""
        begins = entry % self.stride == 0
        return env[begins] * self.per_env + entry[begins] // self.stride % self.per_env

    def counterparts(self, other: Segments) -> tuple[SegmentIds, SegmentIds]:
        """Segments of two rings of other sizes that begin at the same entries: ids here and there.

        Only existing segments of this ring are listed; the other may not have some of them.
        """
        here = self.ids()
        env, first = self.locate(here)
        same = first % other.stride == 0
        return here[same], other.beginning_at(env, first)

    def _ids(self, first: PerEnv, end: PerEnv) -> SegmentIds:
        sizes = (end - first).clamp(min=0)
        env = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        before = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
        index = first[env] + torch.arange(len(env)) - before
        return env * self.per_env + index % self.per_env


class Episodes:
    """A table of complete episodes (trials), from the start to the entry of the final observation.

    `table` [E, 3] has the columns environment, first entry, number of entries.
    """

    def __init__(self, num_envs: int) -> None:
        self.open = torch.zeros(num_envs, dtype=torch.int64)  # first entries of unfinished episodes
        self.table = torch.zeros(0, 3, dtype=torch.int64)

    def add(self, env: Indices, last: Indices) -> None:
        """Add episodes that end with the entries `last`, for each environment in order of time."""
        if not len(env):
            return
        order = torch.argsort(env, stable=True)
        env, last = env[order], last[order]
        first = torch.cat([self.open[env[:1]], last[:-1] + 1])
        new_env = torch.ones_like(env, dtype=torch.bool)
        new_env[1:] = env[1:] != env[:-1]
        first = torch.where(new_env, self.open[env], first)
        self.open = self.open.scatter_reduce(0, env, last + 1, "amax")
        self.table = torch.cat([self.table, torch.stack([env, first, last + 1 - first], dim=1)])

    def forget(self, oldest: PerEnv) -> None:
        """Drop episodes whose first entry was overwritten."""
        env, first, _ = self.table.unbind(1)
        kept = first >= oldest[env]
        if not kept.all():
            self.table = self.table[kept]

    def state_dict(self) -> dict[str, Any]:
        """The state for a resumed run."""
        return {"open": self.open, "known": self.table}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.open, self.table = state["open"], state["known"]

    def rebuild(
        self, oldest: PerEnv, whole: Bool[Tensor, "N"], env: Indices, last: Indices
    ) -> None:
        """Find the episodes that end with the entries `last`, ordered by `env` and time.

        `whole` marks the environments whose entry `oldest` is the first one of an episode.
        """
        self.open = torch.where(whole, oldest, -1)  # `forget` drops an episode that begins at -1
        self.add(env, last)

    def with_entries(self, head: PerEnv, length: int) -> Int[Tensor, "E 3"]:
        """The episodes that have at least `length` written entries from their start on."""
        env, first, _ = self.table.unbind(1)
        return self.table[first + length <= head[env]]


def pack_random(
    episodes: Int[Tensor, "E 3"], rows: int, length: int
) -> tuple[Int[Tensor, "B L"], Int[Tensor, "B L"]]:
    """Rows of random episodes, end to end; the last one is cut at the end of its row.

    Returns the environment and the entry at each place of the rows.
    """
    most = -(-length // int(episodes[:, 2].min()))
    env, entry, _ = pack(episodes[torch.randint(len(episodes), (rows, most))], length)
    return env, entry


def pack(
    pieces: Int[Tensor, "B P 3"], length: int
) -> tuple[Int[Tensor, "B L"], Int[Tensor, "B L"], Int[Tensor, "B L"]]:
    """Rows of `length` entries from pieces (environment, first entry, number of entries).

    The pieces of a row lie end to end. Returns the environment, the entry and the number of the
    piece at each place of the rows.
    """
    end = pieces[..., 2].cumsum(1)
    place = torch.arange(length).expand(len(pieces), length).contiguous()
    piece = torch.searchsorted(end, place, right=True)
    env, first, entries = (column.gather(1, piece) for column in pieces.unbind(-1))
    return env, first + place - (end.gather(1, piece) - entries), piece


def step_mask(
    last: Bool[Tensor, "B L"], truncated: Bool[Tensor, "B L"], burn_in: int
) -> Bool[Tensor, "B L-1"]:
    """The steps to learn from, in rows with one entry more than steps.

    False for final observations, which have no action (`last`); for truncated steps inside a
    trial, whose final observation is not stored; and for the first `burn_in` steps.
    """
    mask = ~last[:, :-1] & (~truncated[:, :-1] | last[:, 1:])
    mask[:, :burn_in] = False
    return mask
