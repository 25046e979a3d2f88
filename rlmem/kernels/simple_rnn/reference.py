"""Definition of the simple recurrent networks: one step, and a plain loop over it."""

from __future__ import annotations

import torch
from torch import Tensor

from rlmem.kernels.simple_rnn.cells import CELLS, Tensors


def simple_step(
    cell: str, projected: Tensor, weight: Tensor, state: Tensors, scale: float = 1.0
) -> Tensors:
    """The state after one time step without resets; `projected` [B, P D]."""
    return CELLS[cell].forward(projected, state, weight, scale)


def simple_rnn_reference(
    cell: str,
    projected: Tensor,
    weight: Tensor,
    state: Tensors,
    start: Tensor,
    scale: float = 1.0,
) -> tuple[Tensor, Tensors]:
    """Same arguments and result as `rlmem.kernels.simple_rnn`."""
    outputs = []
    for projected_t, start_t in zip(projected.unbind(1), start.unbind(1), strict=True):
        state = tuple(torch.where(start_t[:, None], 0, s) for s in state)
        state = simple_step(cell, projected_t, weight, state, scale)
        outputs.append(state[0])
    return torch.stack(outputs, dim=1), state
