"""A core's state as torchrl stores it: one vector of real numbers, and one of integers if need be.

torchrl carries a state under keys of the environment's specs and stores each twice a step, at the
root and under "next"; every key costs microseconds at every turn. So all leaves lie side by side in
one vector: complex numbers as (re, im), truth values as 0 and 1. Counters have a vector of their
own: float32 counts to 2^24 only.

The last entry is 1 in every state that a core has left: `seen`. torchrl begins episodes with zeros,
but the state that a core begins with need not be zero (Aaren's maximum is -inf), and may be learnt.
So zeros mean that nothing was seen, whatever the core: its own initial state is used there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem import tree
from rlmem.cores.base import MemoryCore


class Stored(NamedTuple):
    """`real` [*N, R], the last entry `seen`; `whole` int64 [*N, K], if the state has integers."""

    real: Float[Tensor, "*N R"]
    whole: Int[Tensor, "*N K"] | None = None

    def seen(self) -> Bool[Tensor, "*N"]:
        """Whether there is a state; if not, the core's initial one is meant."""
        return self.real[..., -1] != 0

    def parts(self) -> list[Tensor]:
        """The vectors that there are."""
        return [self.real] if self.whole is None else [self.real, self.whole]

    def at(self, where: Any) -> Stored:
        """What is stored at these rows or steps."""
        return Stored(*(part[where] for part in self.parts()))


@dataclass(frozen=True)
class Slot:
    """A leaf [*shape] of `dtype` in the entries `first` to `end` of its vector."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    first: int
    end: int

    @property
    def whole(self) -> bool:
        """Whether it is among the integers."""
        real = self.dtype.is_floating_point or self.dtype.is_complex
        return not real and self.dtype != torch.bool

    def read(self, vector: Tensor) -> Tensor:
        """The leaf [*N, *shape] from [*N, R]: a view, of the vector's precision."""
        pair = (2,) if self.dtype.is_complex else ()
        shape = (*vector.shape[:-1], *self.shape, *pair)
        leaf = vector[..., self.first : self.end].reshape(shape)
        if self.dtype.is_complex:
            return torch.view_as_complex(leaf)
        return leaf if self.dtype.is_floating_point else leaf.to(self.dtype)


class Packing:
    """The way from the states of `core` to what is stored, and back."""

    def __init__(self, core: MemoryCore[Any]) -> None:
        with torch.no_grad():
            self._example = core.initial_state(1)
        leaves = list(tree.leaves(self._example))
        # Complex leaves first: their entries must begin at even places to be seen as complex.
        self._order = sorted(range(len(leaves)), key=lambda i: not leaves[i].is_complex())
        self._slots = _placed(leaves, self._order)
        size = max((slot.end for slot in self._slots if not slot.whole), default=0)
        # And rows must be an even number of entries apart.
        self._marks = 2 if size % 2 == 0 and any(leaf.is_complex() for leaf in leaves) else 1
        self.real_size = size + self._marks
        self.whole_size = max((slot.end for slot in self._slots if slot.whole), default=0)

    def pack(self, state: Any, dims: int = 1) -> Stored:
        """What is stored of a state; its leaves begin with `dims` dimensions, rows (and time)."""
        leaves = list(tree.leaves(state))
        real: list[Tensor] = []
        whole: list[Tensor] = []
        for i in self._order:
            leaf = torch.view_as_real(leaves[i]) if leaves[i].is_complex() else leaves[i]
            flat = leaf.flatten(dims) if leaf.dim() > dims else leaf.unsqueeze(-1)
            (whole if self._slots[i].whole else real).append(flat)
        like = real[0] if real else whole[0].float()
        real.append(like.new_ones((*like.shape[:dims], self._marks)))
        integers = torch.cat([leaf.long() for leaf in whole], dim=-1) if whole else None
        return Stored(torch.cat(real, dim=-1), integers)

    def unpack(self, stored: Stored) -> Any:
        """The state, without a copy where it has no integers; of no meaning where not `seen`."""
        slots = iter(self._slots)

        def read(_: Tensor) -> Tensor:
            slot = next(slots)
            vector = stored.whole if slot.whole else stored.real
            assert vector is not None
            return slot.read(vector)

        return tree.map(read, self._example)


def _placed(leaves: list[Tensor], order: list[int]) -> list[Slot]:
    """The places of `leaves` [1, ...], one after the other in `order`."""
    slots: dict[int, Slot] = {}
    ends = {False: 0, True: 0}
    for i in order:
        leaf = leaves[i][0]
        empty = Slot(tuple(leaf.shape), leaf.dtype, 0, 0)
        first = ends[empty.whole]
        ends[empty.whole] = first + leaf.numel() * (2 if leaf.is_complex() else 1)
        slots[i] = replace(empty, first=first, end=ends[empty.whole])
    return [slots[i] for i in range(len(leaves))]
