"""A memory that learns at test time, a chunk of tokens at a time, without a weight per token.

Within a chunk all gradients are taken at its first weights, so the weights after token t are

    W_t = keep_t W_0 + carry_t S_0 - sum_{j <= t} c_tj theta_j read_j (x) wrong_j

with c the product of two linear recurrences (momentum, then forgetting), and what a query reads of
the sum is an attention of t on j: the dual form (Titans, arXiv 2501.00663, section 3.2).
Rows open their chunks where their own episodes say so; a piece is what lies between two borders.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rlmem.kernels.episodes import ages, next_age
from rlmem.kernels.linear_scan import linear_scan
from rlmem.kernels.titans.reference import Learned, Matrices, Rates, surprise


class Pieces(NamedTuple):
    """Piece i of row b: tokens, whether an episode begins, whether a chunk does, its length.

    `token` [n, B, C] are places in the flattened row [B * T] (any, behind the end), the others
    [n, B]; a row that has fewer pieces than others has empty ones in the end.
    """

    token: Tensor
    inside: Tensor  # [n, B, C]
    begins: Tensor
    opens: Tensor
    length: Tensor


def divide(age: Tensor, start: Tensor, chunk: int) -> Pieces:
    """The pieces of a row."""
    rows, time = start.shape
    opens = ages(age, start) % chunk == 0
    border = opens.clone()
    border[:, 0] = True
    piece = border.long().cumsum(1) - 1
    count = int(piece.max()) + 1
    place = torch.arange(time, device=start.device).expand(rows, -1)
    # Each piece's first token, and its length: how many tokens have its number.
    first = torch.zeros(rows, count, dtype=torch.int64, device=start.device)
    first.scatter_reduce_(1, piece, place, "amin", include_self=False)
    length = torch.zeros_like(first).scatter_add_(1, piece, torch.ones_like(piece))
    offset = torch.arange(min(chunk, time), device=start.device)
    token = (first[..., None] + offset).clamp(max=time - 1)
    token = token + (torch.arange(rows, device=start.device) * time)[:, None, None]
    there = length > 0
    return Pieces(
        token.transpose(0, 1),
        (offset < length[..., None]).transpose(0, 1),
        (start.gather(1, first) & there).t(),
        (opens.gather(1, first) & there).t(),
        length.t(),
    )


class Mix(NamedTuple):
    """What the weights after each token are made of, for all pieces: [n, B, H, C, ...].

    `past` [.., C, 3]: of the first weights, of the first momentum, and the same for momentum
    itself; `weight` and `momentum` [.., C, C]: of each token's gradient, with its step size.
    """

    past: Tensor
    weight: Tensor
    momentum: Tensor


def mix(theta: Tensor, eta: Tensor, alpha: Tensor) -> Mix:
    """The coefficients; rates are [n, B, H, C]."""
    shape, size = theta.shape, theta.shape[-1]
    gates = [x.reshape(-1, size, 1) for x in (eta, 1 - alpha)]
    rows = gates[0].shape[0]
    # Column `size` is what the momentum before the piece has become.
    value = torch.eye(size, size + 1, dtype=theta.dtype, device=theta.device)
    h0 = F.pad(value.new_ones(1), (size, 0)).expand(rows, -1)
    momentum = linear_scan(gates[0], value.expand(rows, -1, -1), h0)
    weight = linear_scan(gates[1], momentum)
    keep = gates[1].cumprod(1)
    past = torch.cat([keep, weight[..., size:], momentum[..., size:]], dim=-1)
    step = theta.reshape(-1, 1, size)
    parts = past, weight[..., :size] * step, momentum[..., :size] * step
    return Mix(*(part.reshape(*shape, -1) for part in parts))


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rates: Rates,
    first: Matrices,
    state: Learned,
    start: Tensor,
    chunk: int,
    limit: float | None,
) -> tuple[Tensor, Learned]:
    """Same arguments and result as `rlmem.kernels.titans`; differentiable."""
    pieces = divide(state.age, start, chunk)
    flat = pieces.token.flatten()
    inside = pieces.inside[:, :, None]

    def tokens(x: Tensor) -> Tensor:
        """[B, T, H, ...] as [n, B, H, C, ...]."""
        taken = x.flatten(0, 1).index_select(0, flat).view(*pieces.token.shape, *x.shape[2:])
        return taken.transpose(2, 3)

    theta, eta, alpha = (tokens(rate) for rate in rates)
    mixed = mix(theta * inside, eta, alpha)
    last = (pieces.length - 1).clamp(min=0)[:, :, None, None, None]
    ends = Mix(*(x.take_along_dim(last, 3).squeeze(3) for x in mixed))
    weight, momentum, anchor, outputs = state.weight, state.momentum, state.anchor, []
    for i, (query, key, value) in enumerate(zip(tokens(q), tokens(k), tokens(v), strict=True)):
        begins, opens = (x[i, :, None, None, None] for x in (pieces.begins, pieces.opens))
        weight = tuple(torch.where(begins, w0, w) for w0, w in zip(first, weight, strict=True))
        momentum = tuple(torch.where(begins, 0, s) for s in momentum)
        anchor = tuple(torch.where(opens, w, a) for w, a in zip(weight, anchor, strict=True))
        factors = surprise(tuple(a[:, :, None] for a in anchor), key, value, limit)
        outputs.append(read(query, weight, momentum, factors, Mix(*(x[i] for x in mixed))))
        there = (pieces.length[i] > 0)[:, None, None, None]
        end = Mix(*(x[i] for x in ends))
        moved = [
            advance(*each, end)
            for each in zip(weight, momentum, factors[::2], factors[1::2], strict=True)
        ]
        weight = tuple(torch.where(there, new[0], w) for new, w in zip(moved, weight, strict=True))
        momentum = tuple(
            torch.where(there, new[1], s) for new, s in zip(moved, momentum, strict=True)
        )
    y = torch.stack(outputs).transpose(2, 3).flatten(0, 2)
    kept = pieces.inside.flatten()
    order = flat[kept].argsort()
    y = y[kept][order].view_as(v)
    return y, Learned(weight, momentum, anchor, next_age(state.age, start))


def read(x: Tensor, weight: Matrices, momentum: Matrices, factors: Matrices, mixed: Mix) -> Tensor:
    """What queries [B, H, C, D] read, each from the weights after its own token."""
    keep, carry, _ = mixed.past.unsqueeze(-1).unbind(-2)
    for i, (w, s) in enumerate(zip(weight, momentum, strict=True)):
        seen, wrong = factors[2 * i : 2 * i + 2]
        learned = ((x @ seen.mT) * mixed.weight) @ wrong
        x = keep * (x @ w) + carry * (x @ s) - learned
        if i + 1 < len(weight):
            x = F.gelu(x)
    return x


def advance(
    weight: Tensor, momentum: Tensor, seen: Tensor, wrong: Tensor, end: Mix
) -> tuple[Tensor, Tensor]:
    """Weights and momentum after a piece."""
    keep, carry, persist = (x[..., None, None] for x in end.past.unbind(-1))
    learned = (seen * end.weight[..., None]).mT @ wrong
    pushed = (seen * end.momentum[..., None]).mT @ wrong
    return keep * weight + carry * momentum - learned, persist * momentum - pushed
