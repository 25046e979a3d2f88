"""The simple recurrent networks as loops of torch operations, with a backward without autograd.

The forward keeps the states only. The backward computes the other activations again, for all steps
at once; its loop over time holds only the recurrent part.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlmem.kernels.simple_rnn.cells import CELLS, Tensors


def forward(
    cell: str, projected: Tensor, weight: Tensor, state: Tensor, start: Tensor, scale: float
) -> Tensor:
    """The states after each step, concatenated: [B, T, S D]; `state` is [B, S D]."""
    kind, time = CELLS[cell], projected.shape[1]
    states = projected.new_empty(projected.shape[0], time, state.shape[1])
    pieces = [each.unbind(1) for each in states.chunk(kind.states, dim=-1)]
    now: Tensors = state.chunk(kind.states, dim=-1)
    resets = _masks(start)
    for t, x in enumerate(projected.unbind(1)):
        if (reset := resets[t]) is not None:
            now = tuple(s.masked_fill(reset, 0) for s in now)
        now = kind.forward(x, now, weight, scale)
        for piece, s in zip(pieces, now, strict=True):
            piece[t].copy_(s)
    return states


def backward(
    cell: str,
    grad: Tensor,
    projected: Tensor,
    weight: Tensor,
    state: Tensor,
    start: Tensor,
    states: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for projected, weight and the first state."""
    kind, time = CELLS[cell], states.shape[1]
    before = torch.cat([state[:, None], states[:, :-1]], dim=1).masked_fill(start[..., None], 0)
    parts = before.chunk(kind.states, dim=-1), states.chunk(kind.states, dim=-1)
    factors = kind.prepare(projected, *parts, weight, scale)
    steps = [each.unbind(1) for each in factors]
    given = [each.unbind(1) for each in grad.chunk(kind.states, dim=-1)]
    grad_projected = torch.empty_like(projected, memory_format=torch.contiguous_format)
    pieces, resets = grad_projected.unbind(1), _masks(start)
    carry: Tensors = tuple(torch.zeros_like(each[0]) for each in given)
    for t in reversed(range(time)):
        carry = tuple(c + g[t] for c, g in zip(carry, given, strict=True))
        grad_x, carry = kind.backward(tuple(each[t] for each in steps), carry, weight)
        pieces[t].copy_(grad_x)
        if (reset := resets[t]) is not None:
            carry = tuple(c.masked_fill(reset, 0) for c in carry)
    flat = [tuple(each.flatten(0, 1) for each in tree) for tree in (*parts, factors)]
    grad_weight = kind.weight_grad(grad_projected.flatten(0, 1), *flat)
    return grad_projected, grad_weight, torch.cat(carry, dim=-1)


def _masks(start: Tensor) -> list[Tensor | None]:
    """The rows [B, 1] with a start at each step; None if no row has one."""
    some = start.any(0).tolist()
    columns = start.unsqueeze(-1).unbind(1)
    return [column if any_ else None for column, any_ in zip(columns, some, strict=True)]
