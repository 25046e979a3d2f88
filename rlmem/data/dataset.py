"""Datasets: folders of recorded experience.

A dataset is a folder of recorded runs `000`, `001`, ... Each holds `about.json` (environment,
algorithm, spaces, sizes) and `storage/` (a `RingStorage` in files). All steps of one environment
over a whole run, in order of time, are a stream.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem.data.allocation import allocate
from rlmem.data.returns import discounted_sum
from rlmem.data.storage import LAST, START, RingStorage
from rlmem.envs.base import Spaces, Tensors
from rlmem.errors import UsageError
from rlmem.files import read_text

ABOUT = "about.json"
STORAGE = "storage"
SPACES = ("observation_space", "action_space")
FORMAT = 2  # format 1 had the same files in `tapes/`


class RecordedRows(NamedTuple):
    """B rows of T steps of a dataset; each row is made of pieces (episodes) that lie end to end.

    `first` marks the first step of a piece. `return_to_go[t]` is the undiscounted sum of the
    rewards from step t to the end of its episode.
    """

    obs: Tensors  # leaves [B, T, ...]
    action: Tensors  # leaves [B, T, ...]
    reward: Float[Tensor, "B T"]
    return_to_go: Float[Tensor, "B T"]
    first: Bool[Tensor, "B T"]


class RecordedRun:
    """One recorded run; only returns to go and tables of episodes are loaded into memory.

    `streams` holds for each environment: its episodes (first entry, number of steps) [E, 2], which
    of them are complete [E], and the return to go of each entry.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.about = about
        self.folder = folder / STORAGE
        num_envs, slots = _sizes(self.folder, about)
        self.storage = RingStorage(num_envs, slots, self.folder, writable=False)
        self.storage.open(None, allocate)
        self.head = self.storage.written.clone()
        self._require_whole()
        self.streams = [self._stream(env) for env in range(about["num_envs"])]

    def _require_whole(self) -> None:
        """Raise a `UsageError` unless the files have all leaves, with rings of their size."""
        storage, about = self.storage, self.about
        names = [f"obs{i}" for i in range(len(about["observation_space"]))]
        names += [f"action{i}" for i in range(len(about["action_space"]))]
        wanted = {*names, "reward", "flags"}
        if set(storage.leaves) != wanted:
            odd = sorted(wanted ^ set(storage.leaves))[0]
            raise UsageError(f"{self.folder} is damaged: {odd} is missing or too much")
        entries = storage.num_envs * storage.slots
        for name, leaf in storage.leaves.items():
            if len(leaf) != entries:
                raise UsageError(f"{self.folder} is damaged: {name} has not {entries:,} entries")
        flags, reward = storage.leaves["flags"], storage.leaves["reward"]
        kinds = flags.dtype == torch.uint8 and reward.dtype == torch.float32
        if not kinds or flags.dim() != 1 or reward.dim() != 1:
            raise UsageError(f"{self.folder} is damaged: flags or reward has a wrong type")
        full = (self.head >= 1) & (self.head <= storage.slots)
        if not full.all() or not (flags[storage.rings] & START).all():
            raise UsageError(f"{self.folder} is damaged: the numbers of its steps are impossible")

    def require_values(self, observation_space: Spaces, action_space: Spaces) -> None:
        """Raise a `UsageError` if leaves do not have the shapes and values of these spaces."""
        for kind, name, spaces in zip(
            SPACES, ("obs", "action"), (observation_space, action_space), strict=True
        ):
            order = list(self.about[kind])
            for key, space in spaces.items():
                self._require_values(key, self.storage.leaves[f"{name}{order.index(key)}"], space)

    def _require_values(self, key: str, leaf: Tensor, space: gym.Space) -> None:
        if tuple(leaf.shape[1:]) != tuple(space.shape or ()):
            raise UsageError(f"{self.folder} is damaged: {key} has shape {list(leaf.shape[1:])}")
        if not isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
            return
        low = torch.as_tensor(space.start)
        count = torch.as_tensor(space.n if isinstance(space, gym.spaces.Discrete) else space.nvec)
        for ring, head in zip(self.storage.rings.tolist(), self.head.tolist(), strict=True):
            value = leaf[ring : ring + head] - low
            if leaf.dtype.is_floating_point or ((value < 0) | (value >= count)).any():
                raise UsageError(f"{self.folder} is damaged: {key} is not in {space}")
        self.storage.resident.check()

    def _stream(self, env: int) -> tuple[Int[Tensor, "E 2"], Bool[Tensor, "E"], Tensor]:
        head, ring = int(self.head[env]), int(self.storage.rings[env])
        flags = self.storage.leaves["flags"][ring : ring + head]
        reward = self.storage.leaves["reward"][ring : ring + head]
        first = (flags & START).nonzero().squeeze(1)
        end = torch.cat([first[1:], torch.tensor([head])])
        done = torch.zeros(head, dtype=torch.bool)
        done[end - 1] = True
        to_go = discounted_sum(reward[None].double(), done[None], 1.0)[0].float()
        whole = (flags[end - 1] & LAST) != 0
        return torch.stack([first, end - first - whole.long()], dim=1), whole, to_go


class Dataset:
    """All recorded runs in a folder, which must have the same spaces.

    `episodes` [E, 3] has the columns stream, first entry and number of steps, sorted by stream and
    then by time. `whole` [E] marks the complete episodes. Raises `UsageError` if the folder has no
    runs, or holds anything else.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        abouts = read_abouts(self.folder)
        if not abouts:
            raise UsageError(f"{folder} holds no dataset (rlmem train record={folder} makes one)")
        self.runs = [RecordedRun(path, about) for path, about in abouts.items()]
        self.about = next(iter(abouts.values()))
        streams = [(r, env) for r, run in enumerate(self.runs) for env in range(len(run.head))]
        self.run, self.env = torch.tensor(streams).unbind(1)
        found = [self.runs[r].streams[env] for r, env in streams]
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
        """The number of steps."""
        return int(self.episodes[:, 2].sum())

    @property
    def returns(self) -> Float[Tensor, "W"]:
        """The returns of the complete episodes."""
        stream, first, _ = self.episodes[self.whole].unbind(1)
        return self.return_to_go[self.offset[stream] + first]

    def read(
        self, stream: Int[Tensor, "B L"], entry: Int[Tensor, "B L"], piece: Int[Tensor, "B L"]
    ) -> RecordedRows:
        """The rows of these entries; `piece` is the number of each entry's piece in its row."""
        leaves: dict[str, Tensor] = {}
        run, env = self.run[stream], self.env[stream]
        for r in run.unique().tolist():
            here = run == r
            storage = self.runs[r].storage
            read = storage.read(storage.slot(env[here], entry[here])[None])
            for name, leaf in read.items():
                if name not in leaves:
                    leaves[name] = leaf.new_empty(*stream.shape, *leaf.shape[2:])
                leaves[name][here] = leaf[0]
        first = torch.ones_like(run, dtype=torch.bool)
        first[:, 1:] = piece[:, 1:] != piece[:, :-1]

        def group(name: str, keys: Mapping[str, str]) -> Tensors:
            return {key: leaves[f"{name}{i}"] for i, key in enumerate(keys)}

        return RecordedRows(
            obs=group("obs", self.about["observation_space"]),
            action=group("action", self.about["action_space"]),
            reward=leaves["reward"],
            return_to_go=self.return_to_go[self.offset[stream] + entry],
            first=first,
        )


def read_abouts(folder: Path) -> dict[Path, dict[str, Any]]:
    """The folder and `about.json` of each recorded run of a dataset; empty if there is no folder.

    Raises `UsageError` if the folder holds anything else, or runs of different spaces.
    """
    found: dict[Path, dict[str, Any]] = {}
    for path in sorted(folder.glob("[!.]*")):
        try:
            about = json.loads(read_text(path / ABOUT))
            found_format = about["format"]
            if not all(isinstance(about[kind], dict) for kind in SPACES):
                raise TypeError("spaces")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError(
                f"{folder} is not a dataset: {path.name} is no recorded run"
            ) from error
        if found_format != FORMAT:
            old = f": rename its folder tapes to {STORAGE} and write format {FORMAT} in {ABOUT}"
            raise UsageError(
                f"{path} has format {found_format} of datasets, not {FORMAT}"
                + (old if found_format == 1 else ", which this version of rlmem reads")
            )
        require_same_spaces(folder, next(iter(found.values()), about), about)
        found[path] = about
    return found


def _sizes(folder: Path, about: Mapping[str, Any]) -> tuple[int, int]:
    """The numbers of environments and slots in `about.json`, held against the files' sizes."""
    num_envs, slots = _size(folder, about, "num_envs"), _size(folder, about, "slots")
    try:
        found = (folder / "written").stat().st_size
    except OSError as error:
        raise UsageError(f"cannot read {folder / 'written'}: {error.strerror}") from error
    if found != 8 * num_envs:
        raise UsageError(f"{folder / 'written'} is damaged: it has {found:,} bytes")
    return num_envs, slots


def _size(folder: Path, about: Mapping[str, Any], name: str) -> int:
    value = about.get(name)
    if type(value) is not int or not 1 <= value < 2**48:
        raise UsageError(f"{folder.parent / ABOUT} is damaged: {name} is {value!r}")
    return value


def space_texts(spaces: Spaces) -> dict[str, str]:
    """Spaces as text in `about.json`, by leaf."""
    return {key: str(space) for key, space in spaces.items()}


def require_same_spaces(folder: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raises a `UsageError` if two runs differ in observation or action space."""
    for kind in SPACES:
        if list(there[kind].items()) != list(here[kind].items()):
            raise UsageError(
                f"{folder} holds experience of other spaces: its {kind} is {_short(there[kind])}, "
                f"not {_short(here[kind])}"
            )


def _short(spaces: Mapping[str, str]) -> str:
    return ", ".join(f"{key}: {space}" for key, space in spaces.items())
