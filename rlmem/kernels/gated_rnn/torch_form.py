"""The gated recurrent networks as loops of torch operations, with a backward without autograd.

Used where neither the C form nor the Triton form applies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlmem.kernels.gated_rnn.cells import CELLS, PER_UNIT
from rlmem.kernels.gated_rnn.reference import recur

Results = tuple[Tensor, Tensor, Tensor, Tensor]


def forward(
    cell: str,
    projected: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor,
    start: Tensor | None,
    save: bool,
) -> Results:
    """`h` [B, T, H, D], the last state [B, S, H, D], and two inputs of `backward`.

    These are the activations [B, T, H, 4 D] and all states but h, concatenated,
    [B, T, H, (S-1) D]; both are empty unless `save`.
    """
    rows, time, heads, _ = projected.shape
    width = weight.shape[1]
    h = projected.new_empty(rows, time, heads, width)
    activations, saved_states = allocate_saved(projected, weight, state, save)
    now = state.unbind(1)
    for t in range(time):
        if start is not None:
            now = tuple(s.masked_fill(start[:, t, None, None], 0) for s in now)
        recurrent = recur(now[0], weight)
        now, made = CELLS[cell].forward(projected[:, t], recurrent, bias, now)
        h[:, t] = now[0]
        if save:
            torch.cat(made, dim=-1, out=activations[:, t])
        if save and len(now) > 1:
            torch.cat(now[1:], dim=-1, out=saved_states[:, t])
    return h, torch.stack(now, dim=1), activations, saved_states


def allocate_saved(
    projected: Tensor, weight: Tensor, state: Tensor, save: bool
) -> tuple[Tensor, Tensor]:
    """Memory for the activations and the states other than h."""
    if not save:
        return state.new_empty(0), state.new_empty(0)
    front, width = projected.shape[:-1], weight.shape[1]
    return (
        state.new_empty(*front, PER_UNIT * width),
        state.new_empty(*front, (state.shape[1] - 1) * width),
    )


def sums(before: Tensor, grad: Tensor, grad_h_n: Tensor | None) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias from those of the pre-activations, over all rows and time.

    `before` [B, T, H, D] is h before each step; `grad_h_n` is the gradient of the state's
    contribution to the last gate, if it differs from the gate's (GRU).
    """
    bias = grad.sum((0, 1))
    if grad_h_n is not None:
        bias = torch.cat([bias, grad_h_n.sum((0, 1))], dim=-1)
    return outer(before, grad, grad_h_n), bias


def outer(before: Tensor, grad: Tensor, grad_h_n: Tensor | None) -> Tensor:
    """The weight's gradient of `sums`."""
    left = before.flatten(0, 1).permute(1, 2, 0)

    def product(right: Tensor) -> Tensor:
        right = right.flatten(0, 1)
        if len(left) == 1:
            return (left[0] @ right[:, 0])[None]
        return left @ right.transpose(0, 1)

    if grad_h_n is None:
        return product(grad)
    width = grad_h_n.shape[-1]
    return torch.cat([product(grad[..., : 2 * width]), product(grad_h_n)], dim=-1)


def backward(
    cell: str,
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    weight: Tensor,
    state: Tensor,
    start: Tensor | None,
    h: Tensor,
    activations: Tensor,
    saved_states: Tensor,
) -> Results:
    """Gradients for projected, weight, bias and the first state."""
    rows, time, heads, width = h.shape
    kind = CELLS[cell]
    grad_projected = h.new_empty(rows, time, heads, kind.gates * width)
    grad_weight = torch.zeros_like(weight)
    grad_bias = weight.new_zeros(heads, PER_UNIT * width)
    grads = torch.zeros_like(state) if grad_last is None else grad_last
    carry = list(grads.unbind(1))
    every = torch.cat([h, saved_states], dim=-1)
    for t in reversed(range(time)):
        after = every[:, t].chunk(kind.states, dim=-1)
        before = every[:, t - 1].chunk(kind.states, dim=-1) if t else state.unbind(1)
        if start is not None:
            before = tuple(s.masked_fill(start[:, t, None, None], 0) for s in before)
        if grad_h is not None:
            carry[0] = carry[0] + grad_h[:, t]
        made, direct = kind.backward(
            activations[:, t].chunk(4, dim=-1), before, after, tuple(carry)
        )
        four = torch.cat(made, dim=-1)
        # The GRU multiplies the state's contribution to its third gate by r; the input's not.
        apart = kind.gates < PER_UNIT
        grad_projected[:, t] = torch.cat(made[: kind.gates], dim=-1)
        recurrent = torch.cat([*made[:2], made[3]], dim=-1) if apart else four
        grad_weight += before[0].permute(1, 2, 0) @ recurrent.transpose(0, 1)
        grad_bias += four.sum(0)
        carry = list(direct)
        carry[0] = carry[0] + recur(recurrent, weight.mT)
        if start is not None:
            carry = [s.masked_fill(start[:, t, None, None], 0) for s in carry]
    return grad_projected, grad_weight, grad_bias, torch.stack(carry, dim=1)
