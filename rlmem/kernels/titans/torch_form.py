"""Test-time memory in torch, one chunk of tokens at a time, without a weight matrix per token.

All gradients of a chunk are taken at the weights of its beginning, so A after token t is

    A_t = keep_t A_0 + carry_t S_0 - sum_j c_tj read_j (x) wrong_j

where c, the effect of token j on token t, results from two linear recurrences (momentum, then
forgetting). A query's reading of the sum is an attention from t to j: the dual form (Titans, arXiv
2501.00663, section 3.2). If the rule's weights are not linear in the gradients, the weights of a
chunk are computed explicitly, one matrix per token, and freed after the chunk.
Chunks are counted from each episode's start; a piece is a part of a row between two borders.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rlmem.kernels.episodes import ages, next_age
from rlmem.kernels.linear_scan import linear_scan
from rlmem.kernels.titans.reference import (
    Learned,
    Matrices,
    Rates,
    pack,
    recall,
    surprise,
    unpack,
)
from rlmem.kernels.titans.rule import Rule, orthogonal, retain


class Pieces(NamedTuple):
    """Piece i of row b, all [n, B]: its first token, whether an episode begins there, whether a
    chunk does, the tokens of the episode before it, its length.

    Rows with fewer pieces than others have empty ones at the end. `inside` [n, B, C] tells which of
    the C tokens from the first one on belong to the piece.
    """

    first: Tensor
    begins: Tensor
    opens: Tensor
    age: Tensor
    length: Tensor
    inside: Tensor


def split_row(age: Tensor, start: Tensor, chunk: int) -> Pieces:
    """Split rows into pieces."""
    rows, time = start.shape
    age = ages(age, start)
    opens = age % chunk == 0
    border = opens.clone()
    border[:, 0] = True
    piece = border.long().cumsum(1) - 1
    count = int(piece.max()) + 1
    place = torch.arange(time, device=start.device).expand(rows, -1)
    # Each piece's first token, and its length: the number of tokens with its index.
    first = torch.zeros(rows, count, dtype=torch.int64, device=start.device)
    first.scatter_reduce_(1, piece, place, "amin", include_self=False)
    length = torch.zeros_like(first).scatter_add_(1, piece, torch.ones_like(piece))
    offset = torch.arange(min(chunk, time), device=start.device)
    there = length > 0
    return Pieces(
        first.t(),
        (start.gather(1, first) & there).t(),
        (opens.gather(1, first) & there).t(),
        age.gather(1, first).t(),
        length.t(),
        (offset < length[..., None]).transpose(0, 1),
    )


def take_tokens(x: Tensor, first: Tensor, count: int) -> Tensor:
    """`count` tokens of [B, N, H, ...] from each `first` [n, B] on, as [n, B, H, count, ...]."""
    rows, time = x.shape[:2]
    # Past the end of a row, any token will do.
    place = (first[..., None] + torch.arange(count, device=x.device)).clamp(max=time - 1)
    place = place + (torch.arange(rows, device=x.device) * time)[:, None]
    found = x.flatten(0, 1).index_select(0, place.flatten())
    return found.view(*place.shape, *x.shape[2:]).transpose(2, 3)


class Mix(NamedTuple):
    """Coefficients of A and the momentum after each token, for all pieces: [n, B, H, C, ...].

    `past` [.., C, 3]: of the first A, of the first momentum, and of the first momentum in the
    momentum itself; `weight` and `momentum` [.., C, J]: of each token's gradient, with its step
    size; `pushed` [.., C, C]: of each token's momentum.
    """

    past: Tensor
    weight: Tensor
    momentum: Tensor
    pushed: Tensor


def mix(strength: Tensor, step: Tensor, eta: Tensor, alpha: Tensor, pushes: bool) -> Mix:
    """The coefficients. Rates are [n, B, H, C]; token t learns from j by `strength` [.., C, J].

    `step` is the factor of each token's momentum; `pushed` is empty unless `pushes`.
    """
    shape, (time, size) = eta.shape, strength.shape[-2:]
    gates = [x.reshape(-1, time, 1) for x in (eta, 1 - alpha)]
    rows = gates[0].shape[0]
    # Column `size` is the coefficient of the momentum before the piece.
    value = F.pad(strength.reshape(rows, time, size), (0, 1))
    h0 = F.pad(value.new_ones(1), (size, 0)).expand(rows, -1)
    momentum = linear_scan(gates[0], value, h0)
    weight = linear_scan(gates[1], momentum)
    keep = gates[1].cumprod(1)
    past = torch.cat([keep, weight[..., size:], momentum[..., size:]], dim=-1)
    pushed = step.new_empty(rows, time, 0)
    if pushes:
        pushed = linear_scan(gates[1], torch.diag_embed(step.reshape(rows, time)))
    parts = past, weight[..., :size], momentum[..., :size], pushed
    return Mix(*(part.reshape(*shape, -1) for part in parts))


def visible(pieces: Pieces, window: int) -> Tensor:
    """Whether token t of a piece learns from token j, [n, B, 1, C, J].

    j begins `window` - 1 tokens before the piece.
    """
    t = torch.arange(pieces.inside.shape[-1], device=pieces.age.device)
    j = torch.arange(1 - window, len(t), device=t.device)
    ago = t[:, None] - j
    known = (ago >= 0) & (ago < window) & (ago <= pieces.age[..., None, None] + t[:, None])
    return (known & pieces.inside[..., None])[:, :, None]


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rates: Rates,
    first: Matrices,
    state: Learned,
    start: Tensor,
    rule: Rule,
) -> tuple[Tensor, Learned]:
    """Same arguments and result as `rlmem.kernels.titans`; differentiable by autograd."""
    pieces = split_row(state.age, start, rule.chunk)
    theta, eta, alpha, gamma, delta = rates.filled()
    row = pack(k, v, gamma, delta)
    if isinstance(state.recent, Tensor):
        row = torch.cat([state.recent, row], dim=1)
    count = pieces.inside.shape[-1]
    theta, eta, alpha = (take_tokens(x, pieces.first, count) for x in (theta, eta, alpha))
    known = take_tokens(row, pieces.first, count + rule.window - 1)
    strength = visible(pieces, rule.window) * unpack(known, k.shape[-1])[2][..., None, :]
    if not rule.orthogonal:
        strength = strength * theta[..., None]
    mixed = mix(strength, theta, eta, alpha, not rule.linear)
    weight, momentum, anchor, outputs = state.weight, state.momentum, state.anchor, []
    for i, query in enumerate(take_tokens(q, pieces.first, count)):
        begins, opens = (x[i, :, None, None, None] for x in (pieces.begins, pieces.opens))
        weight = tuple(torch.where(begins, w0, w) for w0, w in zip(first, weight, strict=True))
        momentum = tuple(torch.where(begins, 0, s) for s in momentum)
        anchor = tuple(torch.where(opens, w, a) for w, a in zip(weight, anchor, strict=True))
        key, value, _, bound = unpack(known[i], k.shape[-1])
        factors = surprise(rule, tuple(a[:, :, None] for a in anchor), key, value, bound)
        here = Mix(*(x[i] for x in mixed))
        follow = dual if rule.linear else weight_per_token
        y, moved = follow(rule, query, weight, momentum, factors, here, pieces.length[i])
        outputs.append(y)
        there = (pieces.length[i] > 0)[:, None, None, None]
        weight = tuple(torch.where(there, new[0], w) for new, w in zip(moved, weight, strict=True))
        momentum = tuple(
            torch.where(there, new[1], s) for new, s in zip(moved, momentum, strict=True)
        )
    y = join_pieces(torch.stack(outputs), pieces).view_as(v)
    age = next_age(state.age, start)
    return y, Learned(weight, momentum, anchor, age, last_tokens(row, rule.window, age))


def join_pieces(y: Tensor, pieces: Pieces) -> Tensor:
    """The pieces' tokens [n, B, H, C, D] as [B * T, H, D], row after row."""
    rows = y.transpose(0, 1).transpose(2, 3)
    return rows.flatten(0, 2)[pieces.inside.transpose(0, 1).flatten()]


def last_tokens(row: Tensor, window: int, age: Tensor) -> Tensor | tuple[()]:
    """The last tokens of a row, in the format of `Learned.recent`."""
    if window == 1:
        return ()
    ago = torch.arange(window - 1, 0, -1, device=row.device)
    return torch.where((ago <= age[:, None])[..., None, None], row[:, 1 - window :], 0)


Moved = list[tuple[Tensor, Tensor]]


def dual(
    rule: Rule,
    query: Tensor,
    weight: Matrices,
    momentum: Matrices,
    factors: Matrices,
    mixed: Mix,
    length: Tensor,
) -> tuple[Tensor, Moved]:
    """Answers to the queries [B, H, C, D], and A and momentum after the piece."""
    y = read(query, weight, momentum, factors, mixed)
    end = Mix(*(at_end(x, length) for x in mixed))
    parts = zip(weight, momentum, factors[::2], factors[1::2], strict=True)
    return y, [advance(*part, end) for part in parts]


def at_end(x: Tensor, length: Tensor) -> Tensor:
    """The last entry of each piece, [B, H, ...] of [B, H, C, ...]."""
    last = (length - 1).clamp(min=0).view(-1, *(1,) * (x.dim() - 1))
    return x.take_along_dim(last, 2).squeeze(2)


def read(x: Tensor, weight: Matrices, momentum: Matrices, factors: Matrices, mixed: Mix) -> Tensor:
    """Answers to the queries [B, H, C, D], each from the weights after its own token."""
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
    """A and momentum after a piece."""
    keep, carry, persist = (x[..., None, None] for x in end.past.unbind(-1))
    learned = (seen * end.weight[..., None]).mT @ wrong
    pushed = (seen * end.momentum[..., None]).mT @ wrong
    return keep * weight + carry * momentum - learned, persist * momentum - pushed


def weight_per_token(
    rule: Rule,
    query: Tensor,
    weight: Matrices,
    momentum: Matrices,
    factors: Matrices,
    mixed: Mix,
    length: Tensor,
) -> tuple[Tensor, Moved]:
    """Same as `dual`, with explicit matrices [B, H, C, in, out] after each token."""
    keep, carry, persist = mixed.past[..., None, None].unbind(-3)
    kept: list[Tensor] = []
    moved: Moved = []
    for w, s, seen, wrong in zip(weight, momentum, factors[::2], factors[1::2], strict=True):
        gradient = seen[..., :, None] * wrong[..., None, :]
        if rule.orthogonal:
            pace = persist * s[:, :, None] - blend(mixed.momentum, gradient)
            pushed = orthogonal(pace, rule.orthogonal)
            held = keep * w[:, :, None] + blend(mixed.pushed, pushed)
            last = at_end(pace, length)
        else:
            held = keep * w[:, :, None] + carry * s[:, :, None] - blend(mixed.weight, gradient)
            last = advance(w, s, seen, wrong, Mix(*(at_end(x, length) for x in mixed)))[1]
        kept.append(held)
        moved.append((at_end(held, length), last))
    return recall(tuple(retain(rule, each) for each in kept), query), moved


def blend(coefficients: Tensor, matrices: Tensor) -> Tensor:
    """Sums of matrices [B, H, J, in, out] with coefficients [B, H, C, J]."""
    return (coefficients @ matrices.flatten(-2)).unflatten(-1, matrices.shape[-2:])
