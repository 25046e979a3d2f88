"""Exchange of what each rank knows about its piece of a row, with exact gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlmem.ranks.group import collective, number, several
from rlmem.ranks.reduce import gather


class _Gather(torch.autograd.Function):
    """The tensors of all ranks, stacked; each rank gets the gradients that all of them have."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.stack(gather(x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        from torch import distributed

        total = grad.clone(memory_format=torch.contiguous_format)
        with collective():
            distributed.all_reduce(total)
        return total[number()]


class _Tie(torch.autograd.Function):
    """The first tensor; the second one gets a gradient of 0, so that its backward runs too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pieces: Tensor) -> Tensor:
        ctx.save_for_backward(pieces)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        (pieces,) = ctx.saved_tensors
        return grad, torch.zeros_like(pieces)


def tied(x: Tensor, pieces: Tensor) -> Tensor:
    """`x`, whose gradients reach `pieces` of `gather_pieces` as zeros.

    The first rank's outputs do not depend on any piece, but it must join the others' backward.
    """
    found: Tensor = _Tie.apply(x, pieces)
    return found


def gather_pieces(x: Tensor) -> Tensor:
    """The tensors of all ranks [ranks, ...], which have equal shapes; differentiable.

    The backward is an operation of all ranks too: each must compute gradients of its results.
    """
    if not several():
        return x[None]
    if x.is_complex():
        return torch.view_as_complex(gather_pieces(torch.view_as_real(x)))
    found: Tensor = _Gather.apply(x)
    return found


def lengths(time: int) -> list[int]:
    """The numbers of steps in the pieces of all ranks."""
    return [int(length) for length in gather(torch.tensor(time))]
