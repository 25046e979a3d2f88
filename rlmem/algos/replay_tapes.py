"""The tapes of a replay: what each environment did, end to end, in a ring of its own.

An entry is one time step: its observation, what was done there and what came of it. After the last
step of an episode (of a trial, where the memory outlives an episode) the final observation has an
entry of its own; it repeats the action before it, so that whatever is computed there is finite.

Entries are counted from 0 for each environment and never renumbered; entry e lies in slot
e % slots of its ring. Rings lie one after the other, so that a row is one piece of memory.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rlmem.envs.base import Tensors, Transition

# What makes leaves of so many entries like an example, in a folder or in memory; without an
# example, those that lie in the folder.
Allocate = Callable[[dict[str, Tensor] | None, int, Path | None], dict[str, Tensor]]

START, TERMINATED, TRUNCATED, LAST = 1, 2, 4, 8

MOST_RESIDENT = 128 * 2**20
MADV_DONTNEED = 4


class Staged(NamedTuple):
    """One step of N environments, as it came."""

    obs: Tensors
    start: Bool[Tensor, "N"]
    state: Any
    action: Tensors
    step: Transition


class Played(NamedTuple):
    """K steps of N environments, on the CPU."""

    leaves: dict[str, Tensor]  # [K, N, ...]: "obs0", .., "action0", .., "reward", "flags" (uint8)
    ends: Bool[Tensor, "K N"]  # the memory ends with this step
    final: dict[str, Tensor]  # [F, ...]: "obs0", ..: what was observed after each of these

    @classmethod
    def of(cls, staged: list[Staged], obs: Sequence[str], action: Sequence[str]) -> Played:
        """Steps end to end; `obs` and `action` are the keys in their order."""
        steps = [each.step for each in staged]
        ends = _stack([step.starts for step in steps])
        flags = START * _stack([each.start for each in staged]).to(torch.uint8)
        flags += TERMINATED * _stack([step.terminated for step in steps])
        flags += TRUNCATED * _stack([step.truncated for step in steps])
        leaves = _stacked("obs", obs, [each.obs for each in staged])
        leaves |= _stacked("action", action, [each.action for each in staged])
        leaves |= {"reward": _stack([step.reward for step in steps]), "flags": flags}
        some = ends.any(1)
        final = [step.final_obs for step, any_ in zip(steps, some.tolist(), strict=True) if any_]
        last = _stacked("obs", obs, final) if final else {}
        return cls(leaves, ends, {name: leaf[ends[some]] for name, leaf in last.items()})


def named(name: str, keys: Sequence[str], leaves: Tensors) -> dict[str, Tensor]:
    """The leaves under names that can be those of files, whatever the keys are."""
    return {f"{name}{i}": leaves[key] for i, key in enumerate(keys)}


def _stack(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors).cpu()


def _stacked(name: str, keys: Sequence[str], parts: list[Tensors]) -> dict[str, Tensor]:
    return {f"{name}{i}": _stack([p[key] for p in parts]) for i, key in enumerate(keys)}


class Resident:
    """Keeps memory-mapped tensors from filling the memory: hands pages back to the files.

    What is mapped and shared is safe in the kernel's cache, and read from there or from the disk
    when it is next wanted; only it counts no longer as this process's memory.
    """

    def __init__(self, most: int = MOST_RESIDENT) -> None:
        self.leaves: list[Tensor] = []
        self.most = most
        self.before = mapped()
        self.libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def check(self) -> None:
        """Forget all pages where more than `most` bytes came since that was last done."""
        now = mapped()
        self.before = min(self.before, now)  # what others mapped may have gone
        if self.libc is None or now - self.before <= self.most:
            return
        for leaf in self.leaves:
            self.libc.madvise(
                ctypes.c_void_p(leaf.data_ptr()), ctypes.c_size_t(leaf.nbytes), MADV_DONTNEED
            )
        if hasattr(self.libc, "malloc_trim"):
            # Tables of episodes, made anew whenever some are forgotten, leave holes in the heap.
            self.libc.malloc_trim(0)
        self.before = mapped()


def mapped() -> int:
    """Bytes of this process's memory that are pages of files; 0 where there is no Linux to ask."""
    if sys.platform != "linux":
        return 0
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[2]) * mmap.PAGESIZE


class Tapes:
    """Rings of `slots` entries for each of `num_envs` environments, in memory or in files.

    In files, `written` remembers how far they were ever written, also after an older checkpoint
    was taken up: what has been overwritten since then is not there any more.
    """

    def __init__(self, num_envs: int, slots: int, directory: Path | None) -> None:
        self.num_envs = num_envs
        self.slots = slots
        self.directory = directory
        self.rings = torch.arange(num_envs) * slots
        self.head = torch.zeros(num_envs, dtype=torch.int64)
        self.written = self.head
        self.leaves: dict[str, Tensor] = {}
        self.resident = Resident()

    @property
    def oldest(self) -> Int[Tensor, "N"]:
        """The first entry of each environment that is still there."""
        return (self.written - self.slots).clamp(min=0)

    def open(self, example: dict[str, Tensor] | None, allocate: Allocate) -> None:
        """Room for entries whose leaves are like those of `example`; None: what the files hold."""
        self.leaves = allocate(example, self.num_envs * self.slots, self.directory)
        if self.directory is not None:
            name = str(self.directory / "written")
            self.written = torch.from_file(name, True, self.num_envs, dtype=torch.int64)
            self.watch(self.leaves)

    def watch(self, leaves: dict[str, Tensor]) -> None:
        """Keep these leaves, if they lie in files, from filling the memory."""
        if self.directory is not None:  # other memory would be lost
            self.resident.leaves += leaves.values()

    def write(self, played: Played) -> Int[Tensor, "K N"]:
        """Append to all tapes; returns the entries of the steps."""
        ends = played.ends.long()
        steps = len(ends)
        entry = self.head + torch.arange(steps)[:, None] + ends.cumsum(0) - ends
        slot = self.slot(torch.arange(self.num_envs), entry)
        final = self.slot(torch.arange(self.num_envs), entry + 1)[played.ends]
        for name, leaf in played.leaves.items():
            stored = self.leaves[name]
            stored[slot] = leaf
            if len(final):
                last = played.final.get(name)
                stored[final] = leaf[played.ends] if last is None else last
        self.leaves["flags"][final] = LAST
        self.leaves["reward"][final] = 0
        self._advance(steps + ends.sum(0))
        self.resident.check()
        return entry

    def seal(self, obs: dict[str, Tensor]) -> Int[Tensor, "M"]:
        """End all episodes that are not over by truncation, with `obs` [N, ...] as their last.

        Returns the environments in which one was not.
        """
        env = torch.arange(self.num_envs)
        slot = self.slot(env, self.head - 1)
        open_ = (self.leaves["flags"][slot] & LAST) == 0
        env, slot = env[open_], slot[open_]
        self.leaves["flags"][slot] |= TRUNCATED
        final = self.slot(env, self.head[open_])
        for name, stored in self.leaves.items():
            stored[final] = obs[name][open_] if name in obs else stored[slot]
        self.leaves["flags"][final] = LAST
        self.leaves["reward"][final] = 0
        self._advance(open_.long())
        return env

    def slot(self, env: Int[Tensor, "..."], entry: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """Where entries lie in the leaves; shapes that broadcast."""
        return self.rings[env] + entry % self.slots

    def read(self, slot: Int[Tensor, "B L"]) -> dict[str, Tensor]:
        """The leaves [B, L, ...] of these slots."""
        self.resident.check()
        flat = slot.flatten()
        return {
            name: leaf.index_select(0, flat).unflatten(0, slot.shape)
            for name, leaf in self.leaves.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """The cursors, and what was written unless it lies in files anyway."""
        state: dict[str, Any] = {"head": self.head, "leaves": {}}
        if self.directory is None:
            most = int(self.head.max())
            state["leaves"] = {
                name: leaf.unflatten(0, (self.num_envs, -1))[:, :most].clone()
                for name, leaf in self.leaves.items()
            }
        return state

    def load_state_dict(self, state: dict[str, Any], allocate: Allocate) -> None:
        """Take up what `state_dict` gave, in tapes that are not open yet."""
        parts = state["leaves"]
        self.open({name: part[0, 0] for name, part in parts.items()} or None, allocate)
        for name, part in parts.items():
            self.leaves[name].unflatten(0, (self.num_envs, -1))[:, : part.shape[1]] = part
        self.head = state["head"].clone()
        if self.directory is None:
            self.written = self.head

    def _advance(self, by: Int[Tensor, "N"]) -> None:
        self.head = self.head + by
        if self.directory is None:
            self.written = self.head
        else:
            torch.maximum(self.written, self.head, out=self.written)
