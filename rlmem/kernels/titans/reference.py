"""The definition of a memory that learns at test time: one token after the other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Matrices = tuple[Tensor, ...]


class Learned(NamedTuple):
    """An inner memory while it learns: one matrix per layer, or two, each [B, H, in, out].

    `anchor` are the weights at the beginning of the chunk that is open, at which all of its
    gradients are taken; `age` [B] (int64) counts the tokens of the episode.
    """

    weight: Matrices
    momentum: Matrices
    anchor: Matrices
    age: Tensor


class Rates(NamedTuple):
    """How a token is learned, each [*N, H]: step size theta, momentum eta, forgetting alpha."""

    theta: Tensor
    eta: Tensor
    alpha: Tensor


def recall(weight: Matrices, x: Tensor) -> Tensor:
    """What the memory answers to `x` [*N, D]: `x W1`, or `gelu(x W1) W2` if there are two."""
    y = torch.einsum("...d,...df->...f", x, weight[0])
    return y if len(weight) == 1 else torch.einsum("...f,...fd->...d", F.gelu(y), weight[1])


def gelu_slope(x: Tensor) -> Tensor:
    """The derivative of gelu."""
    density = torch.exp(-0.5 * x * x) * 0.3989422804014327
    return 0.5 * (1 + torch.erf(x * 0.7071067811865476)) + x * density


def surprise(weight: Matrices, key: Tensor, value: Tensor, limit: float | None) -> Matrices:
    """The factors of the gradients of `|M(key) - value|^2`, which are outer products.

    For each matrix what it read, and the error that came back to it, no longer than `limit`.
    """
    hidden = torch.einsum("...d,...df->...f", key, weight[0])
    if len(weight) == 1:
        return key, cut(2 * (hidden - value), limit)
    seen = F.gelu(hidden)
    wrong = cut(2 * (torch.einsum("...f,...fd->...d", seen, weight[1]) - value), limit)
    back = torch.einsum("...d,...fd->...f", wrong, weight[1]) * gelu_slope(hidden)
    return key, cut(back, limit), seen, wrong


def cut(error: Tensor, limit: float | None) -> Tensor:
    """Errors that are longer than `limit` are cut to that length."""
    if limit is None:
        return error
    # The clamp keeps the gradient of the norm finite where nothing is wrong.
    length = error.square().sum(-1, keepdim=True).clamp(min=limit * limit).sqrt()
    return error * (limit / length)


def learn(
    q: Tensor, k: Tensor, v: Tensor, rates: Rates, state: Learned, chunk: int, limit: float | None
) -> tuple[Tensor, Learned]:
    """One token [B, H, D] for each row: what is answered to `q` after `k -> v` was learned."""
    opens = (state.age % chunk == 0)[:, None, None, None]
    anchor = tuple(
        torch.where(opens, w, a) for w, a in zip(state.weight, state.anchor, strict=True)
    )
    factors = surprise(anchor, k, v, limit)
    theta, eta, alpha = (rate[..., None, None] for rate in rates)
    momentum = tuple(
        eta * s - theta * read[..., :, None] * wrong[..., None, :]
        for s, read, wrong in zip(state.momentum, factors[::2], factors[1::2], strict=True)
    )
    weight = tuple((1 - alpha) * w + s for w, s in zip(state.weight, momentum, strict=True))
    return recall(weight, q), Learned(weight, momentum, anchor, state.age + 1)


def titans_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rates: Rates,
    first: Matrices,
    state: Learned,
    start: Tensor,
    chunk: int = 1,
    limit: float | None = None,
) -> tuple[Tensor, Learned]:
    """Same arguments and result as `rlmem.kernels.titans`."""
    outputs = []
    for t in range(q.shape[1]):
        state = begin(first, state, start[:, t])
        now = Rates(*(rate[:, t] for rate in rates))
        y, state = learn(q[:, t], k[:, t], v[:, t], now, state, chunk, limit)
        outputs.append(y)
    return torch.stack(outputs, 1), state


def begin(first: Matrices, state: Learned, start: Tensor) -> Learned:
    """Where `start` [B], the first weights, no momentum and age 0."""
    begins = start[:, None, None, None]
    return Learned(
        tuple(torch.where(begins, w0, w) for w0, w in zip(first, state.weight, strict=True)),
        tuple(torch.where(begins, 0, s) for s in state.momentum),
        tuple(torch.where(begins, w0, a) for w0, a in zip(first, state.anchor, strict=True)),
        torch.where(start, 0, state.age),
    )
