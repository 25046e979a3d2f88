"""The self-referential weight matrix as a loop of torch operations, without autograd.

The forward keeps the matrices before each chunk only. The backward computes a chunk again, then
goes back through it; with G the gradient for W', of a step

    u = s(b) W (query - key),   W' = W + u key^T

the gradients for the two products with W are g = s(b) (G key) and o, of the step's outputs, so that
G for W is G + g (query - key)^T + o x^T.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlmem.kernels.self_reference.reference import RATES

CHUNK = 16  # steps


class Step(NamedTuple):
    """One step: W before it [N, R, D]; `both` [N, 2, D]: query and key; `wanted` [N, R, 1]."""

    W: Tensor
    both: Tensor
    rates: Tensor
    wanted: Tensor


def forward(
    x: Tensor, weight: Tensor, change: Tensor, start: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """y [B, T, H, Y], the last change, and the matrices before each chunk [B, N, H, R, D]."""
    rows, time, heads, size = x.shape
    width = weight.shape[1] - 2 * size - RATES
    y = x.new_empty(time, rows * heads, width)
    kept = x.new_empty(-(-time // CHUNK), rows, *weight.shape)
    W, base = (weight + change).flatten(0, 1), weight.repeat(rows, 1, 1)
    inputs, resets, part = _by_step(x), _resets(start, heads), _part(weight)
    for t in range(time):
        if t % CHUNK == 0:
            kept[t // CHUNK] = W.view(kept.shape[1:])
        if (reset := resets[t]) is not None:
            W = torch.where(reset, base, W)
        outputs, step = _advance(inputs[t], W, part)
        y[t] = outputs[:, :width]
        W = torch.baddbmm(W, step.rates * step.wanted, step.both[:, 1:])
    y = y.view(time, rows, heads, width).transpose(0, 1).contiguous()
    return y, W.view(kept.shape[1:]) - weight, kept.transpose(0, 1).contiguous()


def backward(
    grad_y: Tensor, grad_change: Tensor, x: Tensor, weight: Tensor, start: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for x, weight and the first change."""
    rows, time, heads, size = x.shape
    grad_x = x.new_empty(time, rows * heads, size)
    inputs, given = _by_step(x), _by_step(grad_y)
    base, part, resets = weight.repeat(rows, 1, 1), _part(weight), _resets(start, heads)
    G = grad_change.flatten(0, 1)
    into_base = -G
    for first in reversed(range(0, time, CHUNK)):
        W, steps = kept[:, first // CHUNK].flatten(0, 1), []
        span = range(first, min(first + CHUNK, time))
        for t in span:
            if (reset := resets[t]) is not None:
                W = torch.where(reset, base, W)
            step = _advance(inputs[t], W, part)[1]
            steps.append(step)
            if t + 1 < span.stop:
                W = torch.baddbmm(W, step.rates * step.wanted, step.both[:, 1:])
        for t in reversed(span):
            G, grad_x[t] = _back(G, given[t], inputs[t], steps.pop(), part)
            if (reset := resets[t]) is not None:
                into_base += torch.where(reset, G, 0)
                G = G.masked_fill(reset, 0)
    into_base += G
    shape = (rows, heads, *weight.shape[1:])
    grad_x = grad_x.view(time, rows, heads, size).transpose(0, 1).contiguous()
    return grad_x, into_base.view(shape).sum(0), G.reshape(shape)


def _advance(x: Tensor, W: Tensor, part: Tensor) -> tuple[Tensor, Step]:
    """The outputs [N, R] of W for one step [N, D, 1], and the step."""
    size = x.shape[1]
    outputs = torch.bmm(W, x).squeeze(-1)
    both = outputs[:, -2 * size - RATES : -RATES].unflatten(1, (2, size)).softmax(-1)
    rates = outputs[:, -RATES:].sigmoid().index_select(1, part)[..., None]
    wanted = torch.bmm(W, (both[:, 0] - both[:, 1])[..., None])
    return outputs, Step(W, both, rates, wanted)


def _back(G: Tensor, grad_y: Tensor, x: Tensor, step: Step, part: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients for W before a step and for its input, from those for W after it and for y."""
    W, both, rates, wanted = step
    query, key = both[:, 0, :, None], both[:, 1, :, None]
    for_u = torch.bmm(G, key)
    for_wanted = rates * for_u
    for_rates = torch.zeros_like(G[:, :RATES, 0]).index_add_(1, part, (for_u * wanted).squeeze(-1))
    rate = rates[:, -RATES:, 0].clone()
    rate[:, :-1] = rates.squeeze(-1)[:, _firsts(part)]
    for_query = torch.bmm(W.mT, for_wanted)
    for_key = torch.bmm(G.mT, rates * wanted) - for_query
    for_both = torch.stack([for_query, for_key], dim=1).squeeze(-1)
    for_both = both * (for_both - (both * for_both).sum(-1, keepdim=True))
    outputs = [grad_y.squeeze(-1), for_both.flatten(1), for_rates * rate * (1 - rate)]
    for_outputs = torch.cat(outputs, dim=1)[..., None]
    left = torch.cat([for_wanted, for_outputs], dim=2)
    right = torch.cat([query - key, x], dim=2)
    return torch.baddbmm(G, left, right.mT), torch.bmm(W.mT, for_outputs).squeeze(-1)


def _by_step(x: Tensor) -> list[Tensor]:
    """[B, T, H, D] as T tensors [B H, D, 1]."""
    return list(x.transpose(0, 1).flatten(1, 2)[..., None].unbind())


def _part(weight: Tensor) -> Tensor:
    """The learning rate of each row: 0 for y, 1 for q, 2 for k, 3 for b."""
    size = weight.shape[2]
    counts = torch.tensor([weight.shape[1] - 2 * size - RATES, size, size, RATES])
    return torch.repeat_interleave(torch.arange(RATES), counts).to(weight.device)


def _firsts(part: Tensor) -> Tensor:
    """The first row of y, q and k."""
    return torch.searchsorted(part, torch.arange(RATES - 1, device=part.device))


def _resets(start: Tensor, heads: int) -> list[Tensor | None]:
    """The matrices [B H, 1, 1] that start at each step; None if none does."""
    some = start.any(0).tolist()
    columns = start.repeat_interleave(heads, 0)[..., None, None].unbind(1)
    return [column if any_ else None for column, any_ in zip(columns, some, strict=True)]
