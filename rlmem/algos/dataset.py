"""Experience in a folder: the tapes of a replay, with a page about each, to be read again.

A dataset is a folder of parts `000`, `001`, ..: one for each run that was recorded into it. A part
is `about.json` (environment, algorithm, spaces, sizes) and `tapes/` (see `replay_tapes`). What one
environment did is a stream, in the order in which it was done, through all of a run's learning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem.algos.replay import allocate
from rlmem.algos.replay_tapes import LAST, START, Tapes
from rlmem.algos.returns import discounted_sum
from rlmem.envs.base import Spaces, Tensors
from rlmem.errors import UsageError

ABOUT = "about.json"
TAPES = "tapes"
FORMAT = 1


class Rows(NamedTuple):
    """B rows of T steps of a dataset, in pieces (episodes) that lie end to end.

    `first` says where a piece begins, `return_to_go[t]` is the undiscounted sum of the rewards
    from step t to the end of its episode.
    """

    obs: Tensors  # leaves [B, T, ...]
    action: Tensors  # leaves [B, T, ...]
    reward: Float[Tensor, "B T"]
    return_to_go: Float[Tensor, "B T"]
    first: Bool[Tensor, "B T"]


class Part:
    """The streams of one run: tapes in files, of which rewards and flags are held in memory."""

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.about = about
        self.tapes = Tapes(about["num_envs"], about["slots"], folder / TAPES)
        self.tapes.open(None, allocate)
        self.head = self.tapes.written.clone()
        self.streams = [self._stream(env) for env in range(about["num_envs"])]

    def _stream(self, env: int) -> tuple[Int[Tensor, "E 2"], Bool[Tensor, "E"], Tensor]:
        """Of one environment: each episode's first entry and steps, if it is whole, and returns."""
        head, ring = int(self.head[env]), int(self.tapes.rings[env])
        flags = self.tapes.leaves["flags"][ring : ring + head]
        reward = self.tapes.leaves["reward"][ring : ring + head]
        first = (flags & START).nonzero().squeeze(1)
        end = torch.cat([first[1:], torch.tensor([head])])
        over = torch.zeros(head, dtype=torch.bool)
        over[end - 1] = True
        to_go = discounted_sum(reward[None].double(), over[None], 1.0)[0].float()
        whole = (flags[end - 1] & LAST) != 0
        return torch.stack([first, end - first - whole.long()], dim=1), whole, to_go


class Dataset:
    """All parts of a folder, which must be alike. Raises `UsageError` where there is none.

    `episodes` [E, 3] are the stream, first entry and number of steps of each in order of time,
    stream after stream; `whole` [E] says which of them were played to their end.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        pages = abouts(self.folder)
        if not pages:
            raise UsageError(f"{folder} holds no dataset (rlmem train record={folder} makes one)")
        self.parts = [Part(path, about) for path, about in pages.items()]
        self.about = next(iter(pages.values()))
        streams = [(p, env) for p, part in enumerate(self.parts) for env in range(len(part.head))]
        self.part, self.env = torch.tensor(streams).unbind(1)
        found = [self.parts[p].streams[env] for p, env in streams]
        number = torch.arange(len(found)).repeat_interleave(
            torch.tensor([len(whole) for _, whole, _ in found])
        )
        steps = torch.cat([table for table, _, _ in found])
        self.episodes: Int[Tensor, "E 3"] = torch.cat([number[:, None], steps], dim=1)
        self.whole: Bool[Tensor, "E"] = torch.cat([whole for _, whole, _ in found])
        sizes = torch.tensor([len(to_go) for _, _, to_go in found])
        self.offset = sizes.cumsum(0) - sizes
        self.return_to_go = torch.cat([to_go for _, _, to_go in found])

    @property
    def steps(self) -> int:
        """How many there are."""
        return int(self.episodes[:, 2].sum())

    @property
    def returns(self) -> Float[Tensor, "W"]:
        """Those of the whole episodes."""
        stream, first, _ = self.episodes[self.whole].unbind(1)
        return self.return_to_go[self.offset[stream] + first]

    def read(
        self, stream: Int[Tensor, "B L"], entry: Int[Tensor, "B L"], which: Int[Tensor, "B L"]
    ) -> Rows:
        """The rows of these entries; `which` numbers the pieces of each row."""
        leaves: dict[str, Tensor] = {}
        part, env = self.part[stream], self.env[stream]
        for p in part.unique().tolist():
            here = part == p
            tapes = self.parts[p].tapes
            read = tapes.read(tapes.slot(env[here], entry[here])[None])
            for name, leaf in read.items():
                if name not in leaves:
                    leaves[name] = leaf.new_empty(*stream.shape, *leaf.shape[2:])
                leaves[name][here] = leaf[0]
        first = torch.ones_like(part, dtype=torch.bool)
        first[:, 1:] = which[:, 1:] != which[:, :-1]

        def group(name: str, keys: Mapping[str, str]) -> Tensors:
            return {key: leaves[f"{name}{i}"] for i, key in enumerate(keys)}

        return Rows(
            obs=group("obs", self.about["observation_space"]),
            action=group("action", self.about["action_space"]),
            reward=leaves["reward"],
            return_to_go=self.return_to_go[self.offset[stream] + entry],
            first=first,
        )


def abouts(folder: Path) -> dict[Path, dict[str, Any]]:
    """The parts of a dataset and what is said of each; none where there is no such folder.

    Raises `UsageError` where the folder holds something else.
    """
    found: dict[Path, dict[str, Any]] = {}
    for path in sorted(folder.glob("[!.]*")):
        try:
            about = json.loads((path / ABOUT).read_text())
            if about["format"] != FORMAT:
                raise ValueError(f"format {about['format']} and not {FORMAT}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{folder} is not a dataset: {path.name} is no part of one") from error
        require_alike(folder, next(iter(found.values()), about), about)
        found[path] = about
    return found


def described(spaces: Spaces) -> dict[str, str]:
    """What is said of spaces, by leaf."""
    return {key: str(space) for key, space in spaces.items()}


def require_alike(folder: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """A `UsageError` where two differ in what is seen or done."""
    for kind in ("observation_space", "action_space"):
        if list(there[kind].items()) != list(here[kind].items()):
            raise UsageError(
                f"{folder} holds another kind of experience: its {kind} is {_short(there[kind])}, "
                f"and not {_short(here[kind])}"
            )


def _short(spaces: Mapping[str, str]) -> str:
    return ", ".join(f"{key}: {space}" for key, space in spaces.items())
