"""What rows are cut at: segments at regular distances, or whole episodes."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Units = Int[Tensor, "_"]  # as many as there are
PerEnv = Int[Tensor, "N"]


class Segments:
    """Stretches of `length` entries that begin at every `stride`-th entry of a tape.

    Those of environment n have the numbers n * per_env + (i % per_env), i = 0, 1, ..; they are
    there from when their last entry is written until their first one is overwritten.
    """

    def __init__(self, num_envs: int, slots: int, length: int, stride: int) -> None:
        self.per_env = slots // stride
        self.length = length
        self.stride = stride
        self.first = torch.zeros(num_envs, dtype=torch.int64)
        self.end = torch.zeros(num_envs, dtype=torch.int64)

    def advance(self, head: PerEnv, oldest: PerEnv) -> tuple[Units, Units]:
        """The numbers of those that are whole and those that are gone since the last call."""
        end = ((head - self.length) // self.stride + 1).clamp(min=0)
        first = torch.minimum((oldest + self.stride - 1) // self.stride, end)
        fresh = self._numbers(torch.maximum(self.end, first), end)
        stale = self._numbers(self.first, torch.minimum(first, self.end))
        self.first, self.end = first, end
        return fresh, stale

    @property
    def count(self) -> int:
        """How many there are."""
        return int((self.end - self.first).sum())

    def numbers(self) -> Units:
        """All there are."""
        return self._numbers(self.first, self.end)

    def draw(self, count: int) -> Units:
        """`count` of them, each equally likely."""
        sizes = (self.end - self.first).cumsum(0)
        drawn = torch.randint(int(sizes[-1]), (count,))
        env = torch.searchsorted(sizes, drawn, right=True)
        last = self.end[env] - (sizes[env] - drawn)
        return env * self.per_env + last % self.per_env

    def locate(self, unit: Units) -> tuple[Units, Units]:
        """Their environments and first entries."""
        env, ring = unit // self.per_env, unit % self.per_env
        first = self.first[env]
        return env, (first + (ring - first) % self.per_env) * self.stride

    def _numbers(self, first: PerEnv, end: PerEnv) -> Units:
        sizes = (end - first).clamp(min=0)
        env = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        before = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
        index = first[env] + torch.arange(len(env)) - before
        return env * self.per_env + index % self.per_env


class Episodes:
    """Whole episodes (trials), from their start to the entry of their final observation."""

    def __init__(self, num_envs: int) -> None:
        self.open = torch.zeros(num_envs, dtype=torch.int64)  # first entries of those that go on
        # Columns: environment, first entry, number of entries.
        self.known = torch.zeros(0, 3, dtype=torch.int64)

    def add(self, env: Units, last: Units) -> None:
        """Episodes that ended with the entries `last`, in the order in which each tape has them."""
        if not len(env):
            return
        order = torch.argsort(env, stable=True)
        env, last = env[order], last[order]
        first = torch.cat([self.open[env[:1]], last[:-1] + 1])
        another = torch.ones_like(env, dtype=torch.bool)
        another[1:] = env[1:] != env[:-1]
        first = torch.where(another, self.open[env], first)
        self.open = self.open.scatter_reduce(0, env, last + 1, "amax")
        self.known = torch.cat([self.known, torch.stack([env, first, last + 1 - first], dim=1)])

    def forget(self, oldest: PerEnv) -> None:
        """Drop those whose first entry was overwritten."""
        env, first, _ = self.known.unbind(1)
        there = first >= oldest[env]
        if not there.all():
            self.known = self.known[there]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"open": self.open, "known": self.known}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.open, self.known = state["open"], state["known"]

    def followed(self, head: PerEnv, length: int) -> Int[Tensor, "E 3"]:
        """Those from whose start `length` entries are written."""
        env, first, _ = self.known.unbind(1)
        return self.known[first + length <= head[env]]


def end_to_end(
    episodes: Int[Tensor, "E 3"], rows: int, length: int
) -> tuple[Int[Tensor, "B L"], Int[Tensor, "B L"]]:
    """Rows of episodes drawn at random, end to end, the last one cut where its row is full.

    Returns the environment and the entry of each place.
    """
    most = -(-length // int(episodes[:, 2].min()))
    env, entry, _ = laid(episodes[torch.randint(len(episodes), (rows, most))], length)
    return env, entry


def laid(
    pieces: Int[Tensor, "B P 3"], length: int
) -> tuple[Int[Tensor, "B L"], Int[Tensor, "B L"], Int[Tensor, "B L"]]:
    """Rows of pieces (environment, first entry, number of entries) end to end, `length` of each.

    Returns the environment, the entry and the number of the piece of each place.
    """
    end = pieces[..., 2].cumsum(1)
    place = torch.arange(length).expand(len(pieces), length).contiguous()
    which = torch.searchsorted(end, place, right=True)
    env, first, entries = (column.gather(1, which) for column in pieces.unbind(-1))
    return env, first + place - (end.gather(1, which) - entries), which


def learnable(
    last: Bool[Tensor, "B L"], truncated: Bool[Tensor, "B L"], burn_in: int
) -> Bool[Tensor, "B L-1"]:
    """Which steps there are to learn from, of rows with one entry more.

    Not the final observations, in which nothing is done; not the truncated steps inside a trial,
    whose final observation is not on the tape; and not the first `burn_in`.
    """
    mask = ~last[:, :-1] & (~truncated[:, :-1] | last[:, 1:])
    mask[:, :burn_in] = False
    return mask
