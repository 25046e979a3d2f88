"""Packs a core's state for torchrl: one vector of real numbers, and one of integers if needed.

torchrl stores every state key twice per step, at the root and under "next", and every key costs
microseconds each time. So all leaves of a state are concatenated to one vector: complex numbers as
(re, im), booleans as 0 and 1. Integers have their own vector, since float32 counts only to 2^24.

The last entry of the real vector is 1 in every state that came from a core: the state is `valid`.
torchrl starts episodes with zeros, but a core's initial state need not be zero (Aaren's maximum is
-inf) and may be a parameter. So zeros stand for the core's own initial state. In a state that was
burnt in the entry is 2: states stored after it are older, and come from other weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem import tree
from rlmem.cores.base import MemoryCore


class PackedState(NamedTuple):
    """`real` [*N, R], whose last entry tells if it is valid; `integer` int64 [*N, K] or None."""

    real: Float[Tensor, "*N R"]
    integer: Int[Tensor, "*N K"] | None = None

    def valid(self) -> Bool[Tensor, "*N"]:
        """Whether a state is stored; if not, it stands for the core's initial state."""
        return self.real[..., -1] != 0

    def burnt_in(self) -> bool:
        """Whether some states were burnt in. Waits for a GPU; False while torch compiles."""
        return not torch.compiler.is_compiling() and bool((self.real[..., -1] == 2).any())

    def as_burnt_in(self) -> PackedState:
        """The same states, marked as burnt in if they are valid."""
        mark = 2 * self.valid().to(self.real.dtype)
        return self._replace(real=torch.cat([self.real[..., :-1], mark[..., None]], dim=-1))

    def vectors(self) -> list[Tensor]:
        """The one or two vectors."""
        return [self.real] if self.integer is None else [self.real, self.integer]

    def at(self, where: Any) -> PackedState:
        """The packed states at these rows or steps."""
        return PackedState(*(vector[where] for vector in self.vectors()))


@dataclass(frozen=True)
class Slot:
    """Position of a leaf [*shape] of `dtype`: entries `first` to `end` of its vector."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    first: int
    end: int

    @property
    def is_integer(self) -> bool:
        """Whether the leaf is in the vector of integers."""
        real = self.dtype.is_floating_point or self.dtype.is_complex
        return not real and self.dtype != torch.bool

    def read(self, vector: Tensor) -> Tensor:
        """The leaf [*N, *shape] of `vector` [*N, R], if possible a view; floats keep its dtype."""
        pair = (2,) if self.dtype.is_complex else ()
        shape = (*vector.shape[:-1], *self.shape, *pair)
        leaf = vector[..., self.first : self.end].reshape(shape)
        if self.dtype.is_complex:
            return torch.view_as_complex(leaf)
        return leaf if self.dtype.is_floating_point else leaf.to(self.dtype)


class Packing:
    """Converts states of `core` to packed states and back."""

    def __init__(self, core: MemoryCore[Any]) -> None:
        with torch.no_grad():
            self._example = core.initial_state(1)
        leaves = list(tree.leaves(self._example))
        # Complex leaves come first: a complex view needs even offsets.
        self._order = sorted(range(len(leaves)), key=lambda i: not leaves[i].is_complex())
        self._slots = _slots(leaves, self._order)
        size = max((slot.end for slot in self._slots if not slot.is_integer), default=0)
        # A complex view also needs rows of an even number of entries.
        self._marks = 2 if size % 2 == 0 and any(leaf.is_complex() for leaf in leaves) else 1
        self.real_size = size + self._marks
        self.integer_size = max((slot.end for slot in self._slots if slot.is_integer), default=0)

    def pack(self, state: Any, dims: int = 1) -> PackedState:
        """The packed state; leaves begin with `dims` dimensions: rows, or rows and time."""
        leaves = list(tree.leaves(state))
        real: list[Tensor] = []
        integer: list[Tensor] = []
        for i in self._order:
            leaf = torch.view_as_real(leaves[i]) if leaves[i].is_complex() else leaves[i]
            flat = leaf.flatten(dims) if leaf.dim() > dims else leaf.unsqueeze(-1)
            (integer if self._slots[i].is_integer else real).append(flat)
        like = real[0] if real else integer[0].float()
        real.append(like.new_ones((*like.shape[:dims], self._marks)))
        integers = torch.cat([leaf.long() for leaf in integer], dim=-1) if integer else None
        return PackedState(torch.cat(real, dim=-1), integers)

    def unpack(self, packed: PackedState) -> Any:
        """The state, as views if possible; meaningless if `packed` is not valid."""
        slots = iter(self._slots)

        def read(_: Tensor) -> Tensor:
            slot = next(slots)
            vector = packed.integer if slot.is_integer else packed.real
            assert vector is not None
            return slot.read(vector)

        return tree.map(read, self._example)


def _slots(leaves: list[Tensor], order: list[int]) -> list[Slot]:
    """The slots of `leaves` [1, ...], consecutive in `order`."""
    slots: dict[int, Slot] = {}
    ends = {False: 0, True: 0}
    for i in order:
        leaf = leaves[i][0]
        empty = Slot(tuple(leaf.shape), leaf.dtype, 0, 0)
        first = ends[empty.is_integer]
        ends[empty.is_integer] = first + leaf.numel() * (2 if leaf.is_complex() else 1)
        slots[i] = replace(empty, first=first, end=ends[empty.is_integer])
    return [slots[i] for i in range(len(leaves))]
