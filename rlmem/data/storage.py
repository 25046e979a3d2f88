"""Ring buffers of time steps, one ring per environment, in memory or in memory-mapped files.

An entry is one time step: observation, action, reward and flags. After the last step of an episode
(of a trial, if the memory outlives an episode) the final observation has its own entry. That entry
repeats the action before it, so that all results computed from it are finite.

Each environment numbers its entries from 0, for ever; entry e is in slot e % slots of its ring. The
rings lie one after the other, so that a row is contiguous in memory.
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

from rlmem import tree
from rlmem.data import mapped_files
from rlmem.data.undo import ENTRIES, UndoLog
from rlmem.envs.base import Tensors, Transition
from rlmem.errors import UsageError

# (example, size, folder) -> new leaves [size, ...] with the shapes and dtypes of the example, in
# memory if the folder is None.
Allocate = Callable[[dict[str, Tensor], int, Path | None], dict[str, Tensor]]

# Bits of an entry's flags. LAST marks a final observation.
START, TERMINATED, TRUNCATED, LAST = 1, 2, 4, 8

UNDO = "undo"  # the folder of the undo log, beside the files
MAX_RESIDENT = 128 * 2**20
MADV_DONTNEED = 4


class PendingStep(NamedTuple):
    """One step of N environments that is not written yet, as received."""

    obs: Tensors
    start: Bool[Tensor, "N"]
    state: Any
    action: Tensors
    step: Transition


class StepBlock(NamedTuple):
    """K steps of N environments, on the CPU."""

    leaves: dict[str, Tensor]  # [K, N, ...]: "obs0", .., "action0", .., "reward", "flags" (uint8)
    ends: Bool[Tensor, "K N"]  # the last steps before the memory is reset
    final: dict[str, Tensor]  # [F, ...]: "obs0", ..: the observations after the F steps in `ends`

    @classmethod
    def of(cls, pending: list[PendingStep], obs: Sequence[str], action: Sequence[str]) -> StepBlock:
        """K pending steps as one block; `obs` and `action` are the keys in their order."""
        steps = [each.step for each in pending]
        ends = torch.stack([step.memory_reset for step in steps])
        flags = START * torch.stack([each.start for each in pending]).to(torch.uint8)
        flags += TERMINATED * torch.stack([step.terminated for step in steps])
        flags += TRUNCATED * torch.stack([step.truncated for step in steps])
        leaves = _stacked("obs", obs, [each.obs for each in pending])
        leaves |= _stacked("action", action, [each.action for each in pending])
        leaves |= {"reward": torch.stack([step.reward for step in steps]), "flags": flags}
        leaves = tree.to_host({**leaves, "ends": ends})
        ends = leaves.pop("ends")
        ending = ends.any(1)
        final = [step.final_obs for step, yes in zip(steps, ending.tolist(), strict=True) if yes]
        last = tree.to_host(_stacked("obs", obs, final)) if final else {}
        return cls(leaves, ends, {name: leaf[ends[ending]] for name, leaf in last.items()})


def numbered(name: str, keys: Sequence[str], leaves: Tensors) -> dict[str, Tensor]:
    """The leaves under the names `name0`, `name1`, .., which are valid as file names."""
    return {f"{name}{i}": leaves[key] for i, key in enumerate(keys)}


def _stacked(name: str, keys: Sequence[str], parts: list[Tensors]) -> dict[str, Tensor]:
    return {f"{name}{i}": torch.stack([p[key] for p in parts]) for i, key in enumerate(keys)}


class ResidentMemoryLimit:
    """Bounds the resident memory of memory-mapped tensors by releasing their pages.

    No data is lost: the pages stay in the kernel's cache or on the disk and are read again when
    needed. They only stop counting as this process's memory.
    """

    def __init__(self, limit: int = MAX_RESIDENT) -> None:
        self.leaves: list[Tensor] = []
        self.limit = limit
        self.baseline = mapped_bytes()
        self.libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def check(self) -> None:
        """Release all pages if more than `limit` bytes were added since the last release."""
        now = mapped_bytes()
        self.baseline = min(self.baseline, now)  # other mappings may have been released
        if self.libc is None or now - self.baseline <= self.limit:
            return
        for leaf in self.leaves:
            self.libc.madvise(
                ctypes.c_void_p(leaf.data_ptr()), ctypes.c_size_t(leaf.nbytes), MADV_DONTNEED
            )
        if hasattr(self.libc, "malloc_trim"):
            # Every change replaces the tables of episodes, which leaves holes in the heap.
            self.libc.malloc_trim(0)
        self.baseline = mapped_bytes()


def mapped_bytes() -> int:
    """Resident bytes of this process that are pages of files; 0 if the system is not Linux."""
    if sys.platform != "linux":
        return 0
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[2]) * mmap.PAGESIZE


class RingStorage:
    """`num_envs` rings of `slots` entries each; in files if `directory` is given.

    `head` is the number of entries of each environment. `written` is the number ever written to
    its ring: in files it exceeds `head` after an older checkpoint is restored without an undo log,
    and entries overwritten since that checkpoint are lost. Entries before `first` were lost in a
    smaller ring, before the storage was restored with more slots. Without `writable`, files are
    only read. Files of an `undoable` storage can return to its last `state_dict`.
    """

    def __init__(
        self,
        num_envs: int,
        slots: int,
        directory: Path | None,
        writable: bool = True,
        undoable: bool = False,
    ) -> None:
        self.num_envs = num_envs
        self.slots = slots
        self.directory = directory
        self.writable = writable
        self.undoable = undoable and directory is not None
        self.reserved = 0  # entries of each ring with disk space
        self.rings = torch.arange(num_envs) * slots
        self.head = torch.zeros(num_envs, dtype=torch.int64)
        self.written = self.head
        self.first = torch.zeros_like(self.head)
        self.leaves: dict[str, Tensor] = {}
        self.resident = ResidentMemoryLimit()
        self.undo: UndoLog | None = None

    @property
    def oldest(self) -> Int[Tensor, "N"]:
        """The oldest entry of each environment that is not overwritten."""
        return torch.maximum(self.written - self.slots, self.first)

    def open(self, example: dict[str, Tensor] | None, allocate: Allocate) -> None:
        """Allocate entries with leaves like those of `example`; None opens existing files."""
        if example is not None:
            self.leaves = allocate(example, self.num_envs * self.slots, self.directory)
        else:
            assert self.directory is not None
            self.leaves = mapped_files.open_existing(self.directory, self.writable)
        if self.directory is not None:
            numbers = self.directory / "written"
            self.written = (
                mapped_files.create_numbers(numbers, self.num_envs)
                if example is not None
                else mapped_files.map_file(numbers, [self.num_envs], torch.int64, self.writable)
            )
            self.watch(self.leaves)
            if self.undoable and example is not None:
                self.undo = UndoLog(self.directory / UNDO, self.num_envs, self.slots)
                self.undo.begin(0, self.head)

    def watch(self, leaves: dict[str, Tensor]) -> None:
        """Include these leaves in the limit of resident memory, if they are in files."""
        if self.directory is not None:  # releasing pages without a file would lose data
            self.resident.leaves += leaves.values()

    def write(self, block: StepBlock) -> Int[Tensor, "K N"]:
        """Append steps to all rings; returns the numbers of their entries."""
        ends = block.ends.long()
        steps = len(ends)
        self._reserve(2 * steps)
        entry = self.head + torch.arange(steps)[:, None] + ends.cumsum(0) - ends
        slot = self.slot(torch.arange(self.num_envs), entry)
        final = self.slot(torch.arange(self.num_envs), entry + 1)[block.ends]
        if self.undo:
            self._keep(entry, block.ends)
        for name, leaf in block.leaves.items():
            stored = self.leaves[name]
            stored[slot] = leaf
            if len(final):
                last = block.final.get(name)
                stored[final] = leaf[block.ends] if last is None else last
        self.leaves["flags"][final] = LAST
        self.leaves["reward"][final] = 0
        self._advance(steps + ends.sum(0))
        self.resident.check()
        return entry

    def truncate(self, obs: dict[str, Tensor]) -> Int[Tensor, "M"]:
        """Truncate all unfinished episodes, with `obs` [N, ...] as their final observations.

        Returns the environments that had one.
        """
        env = torch.arange(self.num_envs)
        self._reserve(1)
        slot = self.slot(env, self.head - 1)
        unfinished = (self.leaves["flags"][slot] & LAST) == 0
        env, slot = env[unfinished], slot[unfinished]
        final = self.slot(env, self.head[unfinished])
        if self.undo:
            self.undo.keep(ENTRIES, self.leaves, torch.cat([slot, final]))
        self.leaves["flags"][slot] |= TRUNCATED
        for name, stored in self.leaves.items():
            stored[final] = obs[name][unfinished] if name in obs else stored[slot]
        self.leaves["flags"][final] = LAST
        self.leaves["reward"][final] = 0
        self._advance(unfinished.long())
        return env

    def _keep(self, entry: Int[Tensor, "K N"], ends: Bool[Tensor, "K N"]) -> None:
        """Keep the entries that these, and the final observations at `ends`, overwrite."""
        assert self.undo is not None
        if int(entry.max()) + 1 < self.slots:
            return
        env = torch.arange(self.num_envs).expand_as(entry)
        env, entry = (
            torch.cat([env.flatten(), env[ends]]),
            torch.cat([entry.flatten(), entry[ends] + 1]),
        )
        self.undo.keep(
            ENTRIES, self.leaves, self.slot(env, entry)[self.undo.overwrites(env, entry)]
        )

    def slot(self, env: Int[Tensor, "..."], entry: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """The indices of entries in the leaves; `env` and `entry` are broadcast."""
        return self.rings[env] + entry % self.slots

    def read(self, slot: Int[Tensor, "B L"]) -> dict[str, Tensor]:
        """The leaves [B, L, ...] of these slots."""
        self.resident.check()
        flat = slot.flatten()
        return {
            name: leaf.index_select(0, flat).unflatten(0, slot.shape)
            for name, leaf in self.leaves.items()
        }

    def finals(self) -> tuple[Int[Tensor, "F"], Int[Tensor, "F"]]:
        """Environments and entries of all stored final observations, in order of both."""
        found = []
        for env in range(self.num_envs):
            entry = torch.arange(int(self.oldest[env]), int(self.head[env]))
            flags = self.leaves["flags"][self.slot(torch.tensor(env), entry)]
            last = entry[(flags & LAST) != 0]
            found.append(torch.stack([torch.full_like(last, env), last]))
        env_of, entry = torch.cat(found, dim=1)
        return env_of, entry

    def state_dict(self) -> dict[str, Any]:
        """The numbers of the entries, and the leaves unless they are in files.

        With an undo log, the storage can return to this state later.
        """
        state: dict[str, Any] = {"head": self.head, "oldest": self.oldest, "leaves": {}}
        if self.undo:
            state["undo"] = self.undo.begin(self.undo.number + 1, self.head)
        if self.directory is None:
            # Entry e is in place e % most: no ring is longer, or no entry was overwritten.
            most = int(self.head.max())
            state["leaves"] = {
                name: leaf.unflatten(0, (self.num_envs, -1))[:, :most].clone()
                for name, leaf in self.leaves.items()
            }
        return state

    def load_state_dict(self, state: dict[str, Any], allocate: Allocate) -> None:
        """Restore a `state_dict`, in a storage that is not open yet.

        Entries move to the slots of this storage, the newest ones if it is smaller. Raises
        `UsageError` for another number of environments, and if files have another number of slots.
        """
        head, parts = state["head"], state["leaves"]
        if len(head) != self.num_envs:
            raise UsageError(
                f"the replay of this run holds the steps of {len(head)} environments: "
                f"resume with num_envs={len(head)}"
            )
        if not parts and self.directory is None:
            raise UsageError(
                "the replay of this run is in files, not in its checkpoint: "
                "resume with its own algo.replay.directory"
            )
        self.open({name: part[0, 0] for name, part in parts.items()} or None, allocate)
        if not parts:
            self._require_files(head, state.get("undo"))
        self.first = state["oldest"].clone()
        self._advance(head)
        for env in range(self.num_envs if parts else 0):
            entry = torch.arange(int(self.oldest[env]), int(head[env]))
            slot = self.slot(torch.tensor(env), entry)
            for name, part in parts.items():
                self.leaves[name][slot] = part[env, entry % part.shape[1]]
        self.resident.check()

    def _require_files(self, head: Int[Tensor, "N"], name: str | None) -> None:
        """Raises a `UsageError` unless the files hold `head` entries in rings of this size.

        If their undo log knows the checkpoint `name`, they return to it.
        """
        entries = {len(leaf) for leaf in self.leaves.values()}
        if entries != {self.num_envs * self.slots}:
            raise UsageError(
                f"the replay files in {self.directory} have a fixed size: "
                f"resume with algo.replay.capacity={min(entries)} and the stride of the run"
            )
        if self.undoable:
            assert self.directory is not None
            self.undo = UndoLog(self.directory / UNDO, self.num_envs, self.slots, name)
            if (self.written >= head).all() and self.undo.undo(ENTRIES, self.leaves):
                self.written.copy_(head)
        overwritten = self.written - head > self.slots
        if ((self.written < head) | overwritten).any():
            raise UsageError(f"{self.directory} does not hold the replay of this run")

    def _reserve(self, more: int) -> None:
        """Reserve the disk space of `more` entries in each ring."""
        if self.directory is None or self.reserved >= self.slots:
            return
        needed = min(self.slots, int(self.head.max()) + more)
        if needed > self.reserved:
            last = mapped_files.enough(needed, self.reserved, self.slots)
            new = range(self.reserved, last)
            mapped_files.reserve(self.directory, self.leaves, self.num_envs, new)
            self.reserved = last

    def _advance(self, by: Int[Tensor, "N"]) -> None:
        self.head = self.head + by
        if self.directory is None:
            self.written = self.head
        else:
            torch.maximum(self.written, self.head, out=self.written)
