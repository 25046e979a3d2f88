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
