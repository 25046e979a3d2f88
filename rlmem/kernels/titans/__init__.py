"""Neural memory that learns at test time (Titans)."""

from __future__ import annotations

import torch
from torch import Tensor

from rlmem.kernels.episodes import next_age
from rlmem.kernels.titans.ops import grouped, learn_row
from rlmem.kernels.titans.reference import (
    Learned,
    Matrices,
    Rates,
    begin,
    learn,
    recall,
    titans_reference,
)

__all__ = ["Learned", "Rates", "begin", "learn", "recall", "titans", "titans_reference"]


def titans(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rates: Rates,
    first: Matrices,
    state: Learned,
    start: Tensor,
    chunk: int = 32,
    limit: float | None = None,
) -> tuple[Tensor, Learned]:
    """A memory M whose weights learn `k -> v` token by token, and then answer `q`; [B, T, H, D].

        S[t] = eta[t] S[t-1] - theta[t] grad_W |M_W(k[t]) - v[t]|^2       at the anchor's W
        W[t] = (1 - alpha[t]) W[t-1] + S[t],    y[t] = M_W[t](q[t])

    Titans (Behrouz et al. 2025, arXiv 2501.00663, equations 9, 10, 13 and 14); M(x) is `x W1` or
    `gelu(x W1) W2`, without a mean in the loss. `q`, `k`, `v` are [B, T, H, D], the rates
    [B, T, H], `first` the weights [H, in, out] of a new episode, `start` [B, T] bool, `state`
    what came before the row; also returns what comes after it. The anchor moves on every `chunk`
    tokens, counted from the episode's start (1: it is the last weights always).

    `limit` bounds the length of a token's error, and so what one token can change. Computed in
    float32, or float64 where q is. Differentiable once, through the inner gradients. A ValueError
    says what is wrong with the arguments.
    """
    _check(q, k, v, rates, first, state, start, chunk, limit)
    dtype = torch.promote_types(q.dtype, torch.float32)
    matrices = (*first, *state.weight, *state.momentum, *state.anchor)
    given = [each.to(dtype) for each in (q, k, v, *rates, *matrices)]
    y, *rest = learn_row(given, state.age, start, chunk, limit)
    weight, momentum, anchor = grouped(rest, len(first))
    return y.to(q.dtype), Learned(weight, momentum, anchor, next_age(state.age, start))


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rates: Rates,
    first: Matrices,
    state: Learned,
    start: Tensor,
    chunk: int,
    limit: float | None,
) -> None:
    if q.dim() != 4 or 0 in q.shape:
        raise ValueError(f"titans: q must be [B, T, H, D], each at least 1, not {list(q.shape)}")
    if chunk < 1 or (limit is not None and limit <= 0):
        raise ValueError(f"titans: chunk and limit must be positive, not {chunk} and {limit}")
    if len(first) not in (1, 2):
        raise ValueError(f"titans: a memory has one matrix or two, not {len(first)}")
    rows, time, heads, size = q.shape
    width = first[0].shape[-1]
    shapes = [[heads, size, width], [heads, width, v.shape[-1]]][: len(first)]
    wanted = {"k": (k, [*q.shape]), "v": (v, [rows, time, heads, v.shape[-1]])}
    wanted |= {name: (rate, [rows, time, heads]) for name, rate in rates._asdict().items()}
    wanted |= {"start": (start, [rows, time]), "age": (state.age, [rows])}
    for i, shape in enumerate(shapes):
        wanted[f"first[{i}]"] = (first[i], shape)
        for name, matrices in zip(state._fields[:3], state[:3], strict=True):
            wanted[f"{name}[{i}]"] = (matrices[i], [rows, *shape])
    for name, (each, shape) in wanted.items():
        if list(each.shape) != shape:
            raise ValueError(f"titans: {name} must be {shape}, not {list(each.shape)}")
    if start.dtype != torch.bool:
        raise ValueError(f"titans: start must be torch.bool, not {start.dtype}")
    devices = {name: str(each.device) for name, (each, _) in wanted.items()}
    if len({*devices.values(), str(q.device)}) > 1:
        raise ValueError(f"titans: all tensors must be on one device, not {devices}")
