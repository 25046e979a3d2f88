"""The gated recurrent networks as loops of torch operations, forward and backward without autograd:
where there is no C and no Triton for them."""

from __future__ import annotations

import torch
from torch import Tensor

from rlmem.kernels.gated_rnn.cells import CELLS, PARTS
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
    """`h` [B, T, H, D], the last state [B, S, H, D], and what `backward` reads.

    That is the parts [B, T, H, 4 D] and all states but h, side by side, [B, T, H, (S-1) D]; both
    empty if not to `save`.
    """
    rows, time, heads, _ = projected.shape
    width = weight.shape[1]
    h = projected.new_empty(rows, time, heads, width)
    parts, kept = saved(projected, weight, state, save)
    now = state.unbind(1)
    for t in range(time):
        if start is not None:
            now = tuple(s.masked_fill(start[:, t, None, None], 0) for s in now)
        share = recur(now[0], weight)
        now, made = CELLS[cell].forward(projected[:, t], share, bias, now)
        h[:, t] = now[0]
        if save:
            torch.cat(made, dim=-1, out=parts[:, t])
        if save and len(now) > 1:
            torch.cat(now[1:], dim=-1, out=kept[:, t])
    return h, torch.stack(now, dim=1), parts, kept


def saved(projected: Tensor, weight: Tensor, state: Tensor, save: bool) -> tuple[Tensor, Tensor]:
    """Memory for the parts and the states; a state that is the output alone is not kept twice."""
    if not save:
        return projected.new_empty(0), projected.new_empty(0)
    front, width = projected.shape[:-1], weight.shape[1]
    return (
        projected.new_empty(*front, PARTS * width),
        projected.new_empty(*front, (state.shape[1] - 1) * width),
    )


def sums(before: Tensor, grad: Tensor, shared: Tensor | None) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias from those of the pre-activations, over all rows and time.

    `before` [B, T, H, D] is the h that each step found; `shared` the gradient of the state's share
    of the last gate, where that differs from the gate's.
    """
    bias = grad.sum((0, 1))
    if shared is not None:
        bias = torch.cat([bias, shared.sum((0, 1))], dim=-1)
    return outer(before, grad, shared), bias


def outer(before: Tensor, grad: Tensor, shared: Tensor | None) -> Tensor:
    """The first of `sums`."""
    left = before.flatten(0, 1).permute(1, 2, 0)

    def product(right: Tensor) -> Tensor:
        right = right.flatten(0, 1)
        if len(left) == 1:
            return (left[0] @ right[:, 0])[None]
        return left @ right.transpose(0, 1)

    if shared is None:
        return product(grad)
    width = shared.shape[-1]
    return torch.cat([product(grad[..., : 2 * width]), product(shared)], dim=-1)


def backward(
    cell: str,
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    weight: Tensor,
    state: Tensor,
    start: Tensor | None,
    h: Tensor,
    parts: Tensor,
    kept: Tensor,
) -> Results:
    """Gradients for projected, weight, bias and the first state."""
    rows, time, heads, width = h.shape
    kind = CELLS[cell]
    grad_projected = h.new_empty(rows, time, heads, kind.gates * width)
    grad_weight = torch.zeros_like(weight)
    grad_bias = weight.new_zeros(heads, PARTS * width)
    grads = torch.zeros_like(state) if grad_last is None else grad_last
    carry = list(grads.unbind(1))
    every = torch.cat([h, kept], dim=-1)
    for t in reversed(range(time)):
        after = every[:, t].chunk(kind.states, dim=-1)
        before = every[:, t - 1].chunk(kind.states, dim=-1) if t else state.unbind(1)
        if start is not None:
            before = tuple(s.masked_fill(start[:, t, None, None], 0) for s in before)
        if grad_h is not None:
            carry[0] = carry[0] + grad_h[:, t]
        made, direct = kind.backward(parts[:, t].chunk(4, dim=-1), before, after, tuple(carry))
        four = torch.cat(made, dim=-1)
        # The GRU's third gate sees the input apart from the state.
        apart = kind.gates < PARTS
        grad_projected[:, t] = torch.cat(made[: kind.gates], dim=-1)
        shared = torch.cat([*made[:2], made[3]], dim=-1) if apart else four
        grad_weight += before[0].permute(1, 2, 0) @ shared.transpose(0, 1)
        grad_bias += four.sum(0)
        carry = list(direct)
        carry[0] = carry[0] + recur(shared, weight.mT)
        if start is not None:
            carry = [s.masked_fill(start[:, t, None, None], 0) for s in carry]
    return grad_projected, grad_weight, grad_bias, torch.stack(carry, dim=1)
