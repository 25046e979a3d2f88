"""Stored states: the memory state at the first entry of each segment (Kapturowski et al. 2019)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rlmem import tree
from rlmem.data.storage import Allocate


class StoredStates:
    """The memory before every `stride`-th entry of each ring, one for each of `number` segments."""

    def __init__(self, number: int, stride: int) -> None:
        self.number = number
        self.stride = stride
        self.leaves: dict[str, Tensor] = {}

    def open(self, example: Any, directory: Path | None, allocate: Allocate) -> None:
        """Allocate states like `example` [N, ...]; None opens the states in the files."""
        one = None if example is None else {k: leaf[0] for k, leaf in _real(example).items()}
        folder = None if directory is None else directory / "states"
        self.leaves = allocate(one, self.number, folder)

    def write(
        self, states: list[Any], entry: Int[Tensor, "K N"], ends: Bool[Tensor, "K N"]
    ) -> None:
        """Store those of the K states [N, ...] at which a segment begins.

        If a segment begins at a final observation, the state before that step is stored: the entry
        is masked, and the next one begins with an empty memory.
        """
        per_env = self.number // entry.shape[1]
        for shift, due in ((0, entry % self.stride == 0), (1, (entry + 1) % self.stride == 0)):
            due = due & ends if shift else due
            some = [(k, due[k].nonzero()[:, 0]) for k in due.any(1).nonzero()[:, 0].tolist()]
            if not some:
                continue
            index = (entry + shift)[due] // self.stride % per_env + per_env * due.nonzero()[:, 1]
            parts = [
                {name: leaf[env.to(leaf.device)] for name, leaf in _real(states[k]).items()}
                for k, env in some
            ]
            for name, stored in self.leaves.items():
                stored[index] = torch.cat([part[name] for part in parts]).cpu()

    def read(self, segment: Int[Tensor, "B"], like: Any) -> Any:
        """The first states of some segments, with the structure, dtypes and device of `like`."""
        numbers = iter(range(len(self.leaves)))

        def leaf(template: Tensor) -> Tensor:
            found = self.leaves[f"state{next(numbers)}"][segment]
            return (torch.view_as_complex(found) if template.is_complex() else found).to(template)

        return tree.map(leaf, like)

    def load_state_dict(
        self, state: dict[str, Tensor] | None, directory: Path | None, allocate: Allocate
    ) -> None:
        """Restore `leaves`; None opens the states in the files."""
        self.open(None, directory, allocate) if state is None else self.leaves.update(state)


def _real(state: Any) -> dict[str, Tensor]:
    """The leaves by name; complex ones as real pairs, because not every storage takes complex."""
    leaves = enumerate(tree.leaves(state))
    return {f"state{i}": torch.view_as_real(x) if x.is_complex() else x for i, x in leaves}
