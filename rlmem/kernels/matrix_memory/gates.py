"""The gates of a chunk, for every device: exponents, the stabiliser, and their gradients.

With `F[t]` the sum of log forget gates since the beginning of the chunk or episode, and m the
stabiliser, the weight of step s at step t of a chunk is

    exp(F[t] - F[s] + i[s] - m[t]) = exp(b[t] + a[s]),   b = F - m,   a = i - F

and that of the state before the chunk is `exp(b[t] + m_before)`. In float32, sums of many large
gates would lose the precision that their differences need. So they are computed in float64; a and b
are split into a float32 number and a small remainder, whose exponential multiplies key and query.
At a start, F is reset to 0; steps carry the number of their episode in the chunk, and steps of
different episodes have weight 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlmem.kernels.linear_scan import linear_scan

__all__ = [
    "Gates",
    "divisor",
    "prepare",
    "read_backward",
    "stabilizer_backward",
    "sum_backward",
]


class Gates(NamedTuple):
    """[N, B, H, c] by chunk; `decay` [N, B, H]; `episode` [N, B, c] counts within the chunk."""

    a: Tensor
    b: Tensor
    query: Tensor  # exp of b's remainder
    key: Tensor  # exp of a's remainder
    first: Tensor  # weight of the state before the chunk, but for b's remainder; 0 after a start
    decay: Tensor  # weight of the state before the chunk in the state after it
    episode: Tensor | None


def prepare(
    i: Float[Tensor, "B T H"] | None,
    lf: Float[Tensor, "B T H"],
    m0: Float[Tensor, "B H"] | None,
    start: Bool[Tensor, "B T"] | None,
    m: Float[Tensor, "B T H"] | None,
    chunk: int,
) -> tuple[Gates, Float[Tensor, "B T H"] | None]:
    """The gates in chunks, and the stabiliser `m` (computed unless given; None without `i`)."""
    time = lf.shape[1]
    flag = None if start is None else _chunks(start[..., None], chunk)
    forget = _chunks(lf.double(), chunk)
    F = _sums(forget, flag)
    count = None if flag is None else flag.cumsum(2)
    enters = None if count is None else count == 0
    before: Tensor | float = 0.0
    a, b = -F, F
    if i is not None:
        inputs = _chunks(i.double(), chunk)
        m0 = torch.zeros_like(lf[:, 0]) if m0 is None else m0
        if m is None:
            m = _stabilizer(inputs, forget, F, m0, flag, enters, lf.dtype)
            m = m.flatten(1, 2)[:, :time].contiguous()
        wide = _chunks(m.double(), chunk)
        before = torch.cat([m0.double()[:, None], wide[:, :-1, -1]], dim=1)[:, :, None]
        a, b = inputs - F, F - wide
    narrow_a, narrow_b = a.to(lf.dtype), b.to(lf.dtype)
    first, decay = torch.exp(narrow_b + before), torch.exp(b + before)
    if enters is not None:
        first, decay = torch.where(enters, first, 0), torch.where(enters, decay, 0)
    last = (time - 1) % chunk
    first[:, -1, last + 1 :] = 0  # the padding after the row could be infinite
    decay = torch.cat([decay[:, :-1, -1], decay[:, -1:, last]], dim=1)
    rests = torch.exp(b - narrow_b), torch.exp(a - narrow_a)
    episode = None if count is None else count.squeeze(-1).movedim(0, 1).int().contiguous()
    decay = decay.to(lf.dtype).movedim(0, 1).contiguous()
    a, b, query, key, first = (_by_chunk(x.to(lf.dtype)) for x in (a, b, *rests, first))
    return Gates(a, b, query, key, first, decay, episode), m


def stabilizer_backward(
    grad_m: Float[Tensor, "B T H"],
    i: Float[Tensor, "B T H"],
    lf: Float[Tensor, "B T H"],
    m0: Float[Tensor, "B H"] | None,
    m: Float[Tensor, "B T H"],
    start: Bool[Tensor, "B T"] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for i, lf and m0 through `m[t] = max(lf[t] + m[t-1], i[t])`.

    The gradient goes to the larger argument of the maximum, or half to each if they are equal.
    """
    before = torch.cat([(torch.zeros_like(m[:, 0]) if m0 is None else m0)[:, None], m[:, :-1]], 1)
    if start is not None:
        before = torch.where(start[..., None], 0, before)
    kept = before + lf
    fraction = torch.where(kept == i, 0.5, (kept > i).to(m.dtype))
    # The fraction that step t+1 passes back to step t.
    passes = torch.cat([fraction[:, 1:], torch.zeros_like(fraction[:, :1])], dim=1)
    stops = None if start is None else torch.cat([start[:, 1:], start[:, :1]], dim=1)
    total = linear_scan(passes, grad_m, None, stops, reverse=True)
    grad_lf = fraction * total
    first = grad_lf[:, 0]
    if start is not None:
        first = torch.where(start[:, 0, None], 0, first)
    return total - grad_lf, grad_lf, first.clone()


def sum_backward(
    grad_F: Float[Tensor, "B T H"], start: Bool[Tensor, "B T"] | None, chunk: int
) -> Float[Tensor, "B T H"]:
    """The gradient for the log forget gates from the gradient for their sums `F`."""
    time = grad_F.shape[1]
    ends = torch.zeros_like(grad_F[:, :, 0], dtype=torch.bool)
    ends[:, chunk - 1 :: chunk] = True
    if start is not None:
        ends[:, :-1] |= start[:, 1:]
    ends[:, time - 1] = True
    one = torch.ones_like(grad_F[0, 0])
    grad = linear_scan(one, grad_F, None, ends, reverse=True)
    return grad if start is None else torch.where(start[..., None], 0, grad)


def _chunks(x: Tensor, chunk: int) -> Tensor:
    """[B, T, ...] as [B, N, c, ...], padded with zeros at the end."""
    missing = -x.shape[1] % chunk
    if missing:
        x = torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], dim=1)
    return x.unflatten(1, (-1, chunk))


def _by_chunk(x: Tensor) -> Tensor:
    """[B, N, c, H] as [N, B, H, c]."""
    return x.permute(1, 0, 3, 2).contiguous()


def _sums(lf: Float[Tensor, "B N c H"], flag: Bool[Tensor, "B N c 1"] | None) -> Tensor:
    """F: sums from the beginning of the chunk, 0 at every start."""
    if flag is None:
        return lf.cumsum(2)
    total, sums = torch.zeros_like(lf[:, :, 0]), torch.empty_like(lf)
    for t in range(lf.shape[2]):
        total = torch.where(flag[:, :, t], 0, total + lf[:, :, t])
        sums[:, :, t] = total
    return sums


def _stabilizer(
    i: Tensor,
    lf: Tensor,
    F: Tensor,
    m0: Tensor,
    flag: Tensor | None,
    enters: Tensor | None,
    dtype: torch.dtype,
) -> Float[Tensor, "B N c H"]:
    """m: first within each chunk without its past, then combined from chunk to chunk."""
    alone = torch.empty_like(lf)
    m = torch.full_like(lf[:, :, 0], -torch.inf)
    for t in range(lf.shape[2]):
        if flag is not None:
            m = torch.where(flag[:, :, t], 0, m)
        m = torch.maximum(m + lf[:, :, t], i[:, :, t])
        alone[:, :, t] = m
    befores, before = [], m0.double()
    for n in range(lf.shape[1]):
        befores.append(before)
        after = torch.maximum(before + F[:, n, -1], alone[:, n, -1])
        if enters is not None:
            after = torch.where(enters[:, n, -1], after, alone[:, n, -1])
        before = after.to(dtype).double()
    entering = torch.maximum(torch.stack(befores, 1)[:, :, None] + F, alone)
    return (entering if enters is None else torch.where(enters, entering, alone)).to(dtype)


def divisor(norm: Tensor | None, m: Tensor | None, normalizer: str, eps: float) -> Tensor | None:
    """The divisor of `C^T q`, given `norm` = q.n; None means 1."""
    if norm is None:
        return None if m is None else torch.exp(-m)
    if normalizer == "sum":
        return norm + eps
    floor = torch.ones_like(norm) if m is None else torch.exp(-m)
    return torch.maximum(norm.abs(), floor) + eps


class ReadGrads(NamedTuple):
    """All [B, T, H]. `scale` times the gradient for h is the gradient for `C^T q`."""

    scale: Tensor | None
    norm: Tensor | None
    b: Tensor
    m: Tensor | None


def read_backward(
    grad_h: Float[Tensor, "B T H V"],
    grad_m: Float[Tensor, "B T H"] | None,
    h: Float[Tensor, "B T H V"],
    norm: Float[Tensor, "B T H"] | None,
    m: Float[Tensor, "B T H"] | None,
    normalizer: str,
    eps: float,
) -> ReadGrads:
    """Gradients through the division, and for the exponents b; a reading is linear in exp(b).

    Without eps, h would not depend on m: so m's gradient has eps as a factor.
    """
    wide = torch.promote_types(h.dtype, torch.float32)
    dot = (grad_h.to(wide) * h).sum(-1)
    below = divisor(norm, m, normalizer, eps)
    if below is None or norm is None:
        none = None if m is None else torch.zeros_like(m) if grad_m is None else grad_m.clone()
        return ReadGrads(None if below is None else 1 / below, None, dot, none)
    grad_below = -dot / below
    into_m = None
    if m is not None:
        into_m = eps * grad_below
        into_m = into_m if grad_m is None else into_m + grad_m
    if normalizer == "max":
        size, floor = norm.abs(), torch.ones_like(norm) if m is None else torch.exp(-m)
        fraction = torch.where(size == floor, 0.5, (size > floor).to(norm.dtype))
        grad_below = grad_below * fraction * norm.sign()
    return ReadGrads(1 / below, grad_below, dot + grad_below * norm, into_m)


def gate_backward(
    into_b: Float[Tensor, "B T H"],
    into_a: Float[Tensor, "B T H"],
    into_m: Float[Tensor, "B T H"] | None,
    i: Float[Tensor, "B T H"] | None,
    lf: Float[Tensor, "B T H"],
    m0: Float[Tensor, "B H"] | None,
    m: Float[Tensor, "B T H"] | None,
    start: Bool[Tensor, "B T"] | None,
    chunk: int,
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Gradients for i, lf and m0 from those for a, b and m, without m0's weight in the readings."""
    grad_lf = sum_backward(into_b - into_a, start, chunk)
    if i is None or m is None or into_m is None:
        return None, grad_lf, None
    to_i, to_lf, to_m0 = stabilizer_backward(into_m, i, lf, m0, m, start)
    return into_a + to_i, grad_lf + to_lf, to_m0
