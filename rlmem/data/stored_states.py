"""Stored states: the memory state at the first entry of each segment (Kapturowski et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rlmem import tree
from rlmem.data import mapped_files
from rlmem.data.storage import Allocate
from rlmem.data.undo import STATES, UndoLog
from rlmem.errors import UsageError


class StoredStates:
    """The memory before every `stride`-th entry of each ring, one for each of `number` segments."""

    def __init__(self, number: int, stride: int) -> None:
        self.number = number
        self.stride = stride
        self.leaves: dict[str, Tensor] = {}
        self.undo: UndoLog | None = None
        self._folder: Path | None = None
        self._reserved = 0  # states of each environment with disk space

    def open(self, example: Any, directory: Path | None, allocate: Allocate) -> None:
        """Allocate states like `example` [N, ...]."""
        one = {name: leaf[0] for name, leaf in _real(example).items()}
        self._allocate(one, directory, allocate)

    def write(
        self, states: list[Any], entry: Int[Tensor, "K N"], ends: Bool[Tensor, "K N"]
    ) -> None:
        """Store those of the K states [N, ...] at which a segment begins.

        If a segment begins at a final observation, the state before that step is stored: the entry
        is masked, and the next one begins with an empty memory.
        """
        per_env = self.number // entry.shape[1]
        self._reserve(int(entry.max()) // self.stride + 2, per_env)
        device = next((leaf.device for leaf in tree.leaves(states[0])), entry.device)
        for shift, due in ((0, entry % self.stride == 0), (1, (entry + 1) % self.stride == 0)):
            due = due & ends if shift else due
            some = [(k, due[k].nonzero()[:, 0]) for k in due.any(1).nonzero()[:, 0].tolist()]
            if not some:
                continue
            env = due.nonzero()[:, 1]
            index = (entry + shift)[due] // self.stride % per_env + per_env * env
            if self.undo:
                old = self.undo.overwrites(env, (entry + shift)[due])
                self.undo.keep(STATES, self.leaves, index[old])
            there = env.to(device, non_blocking=True).split([len(each) for _, each in some])
            parts = [
                {name: leaf[rows] for name, leaf in _real(states[k]).items()}
                for (k, _), rows in zip(some, there, strict=True)
            ]
            found = tree.to_host({n: torch.cat([part[n] for part in parts]) for n in self.leaves})
            for name, stored in self.leaves.items():
                stored[index] = found[name]

    def read(self, segment: Int[Tensor, "B"], like: Any) -> Any:
        """The first states of some segments, with the structure, dtypes and device of `like`."""
        numbers = iter(range(len(self.leaves)))

        def leaf(template: Tensor) -> Tensor:
            found = self.leaves[f"state{next(numbers)}"][segment]
            return (torch.view_as_complex(found) if template.is_complex() else found).to(
                template, non_blocking=True
            )

        return tree.map(leaf, like)

    def write_empty(self, segment: Int[Tensor, "M"], empty: Any) -> None:
        """Store the memory `empty` [1, ...] as the first state of some segments."""
        if self.undo:
            self.undo.keep(STATES, self.leaves, segment)
        for name, leaf in _real(empty).items():
            self.leaves[name][segment] = leaf.cpu()

    def require_loadable(self, state: Mapping[str, Any], in_files: bool) -> None:
        """Raises a `UsageError` if a replay's `state_dict` lacks states of some segments here."""
        if "states" not in state:
            raise UsageError(
                "this run stored no memory states: resume with algo.replay.stored_state=false"
            )
        stride = state["stride"]
        if self.stride != stride if in_files else self.stride % stride:
            needed = f"{stride}, the size of its files" if in_files else f"a multiple of {stride}"
            raise UsageError(
                f"this run stored its memory states {stride} steps apart: resume with "
                f"algo.replay.stride={needed}, or with algo.replay.stored_state=false"
            )

    def load_state_dict(
        self,
        parts: Mapping[str, Tensor],
        empty: Any,
        here: Int[Tensor, "M"],
        there: Int[Tensor, "M"],
        directory: Path | None,
        allocate: Allocate,
    ) -> None:
        """Restore states: number `there[i]` of `parts` becomes number `here[i]`.

        Without `parts` they are in files. Raises `UsageError` if they are not like `empty`
        [1, ...].
        """
        self._allocate({name: part[0] for name, part in parts.items()} or None, directory, allocate)
        wanted = {name: leaf.shape[1:] for name, leaf in _real(empty).items()}
        if wanted != {name: leaf.shape[1:] for name, leaf in self.leaves.items()}:
            raise UsageError(
                "the stored memory states of this run do not fit its memory core: resume with the "
                "core options of the run, or with algo.replay.stored_state=false"
            )
        if self.undo and not parts:
            self.undo.undo(STATES, self.leaves)
        for name, part in parts.items():
            self.leaves[name][here] = part[there]

    def _allocate(
        self, example: dict[str, Tensor] | None, directory: Path | None, allocate: Allocate
    ) -> None:
        self._folder = None if directory is None else directory / "states"
        if example is not None:
            self.leaves = allocate(example, self.number, self._folder)
        else:
            assert self._folder is not None
            self.leaves = mapped_files.open_existing(self._folder)

    def _reserve(self, needed: int, per_env: int) -> None:
        """Reserve the disk space of the first `needed` states of each environment."""
        if self._folder is None or self._reserved >= per_env or needed <= self._reserved:
            return
        last = mapped_files.enough(needed, self._reserved, per_env)
        new = range(self._reserved, last)
        mapped_files.reserve(self._folder, self.leaves, self.number // per_env, new)
        self._reserved = last


def _real(state: Any) -> dict[str, Tensor]:
    """The leaves by name; complex ones as real pairs, because not every storage takes complex."""
    leaves = enumerate(tree.leaves(state))
    return {f"state{i}": torch.view_as_real(x) if x.is_complex() else x for i, x in leaves}
