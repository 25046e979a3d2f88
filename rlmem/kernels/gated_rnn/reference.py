"""Definition of the gated recurrent networks: one step, and a plain loop over it."""

from __future__ import annotations

import torch
from torch import Tensor

from rlmem.kernels.gated_rnn.cells import CELLS, PER_UNIT, Tensors


def gated_step(
    cell: str, projected: Tensor, weight: Tensor, bias: Tensor | None, state: Tensors
) -> Tensors:
    """The state after one time step without resets; `projected` [B, H, G D]."""
    if bias is None:
        bias = projected.new_zeros(*weight.shape[:1], PER_UNIT * weight.shape[1])
    recurrent = recur(state[0], weight)
    return CELLS[cell].forward(projected, recurrent, bias, state)[0]


def recur(h: Tensor, weight: Tensor) -> Tensor:
    """The state's contribution to the pre-activations, per head: [B, H, D] to [B, H, G D]."""
    return torch.matmul(h.transpose(0, 1), weight).transpose(0, 1)


def gated_rnn_reference(
    cell: str,
    projected: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    state: Tensors | None = None,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensors]:
    """Same arguments and result as `rlmem.kernels.gated_rnn`."""
    rows, _, heads, _ = projected.shape
    if state is None:
        zeros = projected.new_zeros(rows, heads, weight.shape[1])
        state = (zeros,) * CELLS[cell].states
    outputs = []
    for t, projected_t in enumerate(projected.unbind(1)):
        if start is not None:
            state = tuple(torch.where(start[:, t, None, None], 0, s) for s in state)
        state = gated_step(cell, projected_t, weight, bias, state)
        outputs.append(state[0])
    return torch.stack(outputs, dim=1), state
