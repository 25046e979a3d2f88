"""Matrix memory in chunks, as torch matrix products; for CPUs, and for float64 on every device.

With P[t, s] = (q[t] . k[s]) exp(b[t] + a[s]) for s <= t in one episode (see `gates.py`), a chunk
with the state C before it outputs P v + first (q C), and the state after it is
C decay + k^T (exp(b[last] + a) v). With a normaliser, v has a last column of ones, so that the last
column of the state is n. Chunks are computed one after the other, so that data stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rlmem.kernels.matrix_memory import gates as g

__all__ = ["CHUNK", "Grads", "Saved", "backward", "forward"]

CHUNK = 32


class Saved(NamedTuple):
    """Results of a row: `h`; the state after it [B, H, K, V']; and inputs of the backward.

    These are the stabiliser `m` and the norm q.n (both [B, T, H], or empty), and the state before
    every chunk [B, N, H, K, V']. V' is V, plus 1 with a normaliser.
    """

    h: Tensor
    last: Tensor
    m: Tensor
    norm: Tensor
    states: Tensor


class Grads(NamedTuple):
    """Gradients of the inputs; `state` and `m` are those of the first state."""

    q: Tensor
    k: Tensor
    v: Tensor
    i: Tensor | None
    lf: Tensor
    state: Tensor
    m: Tensor | None


class Chunk(NamedTuple):
    """One chunk, with rows and heads as one batch R.

    q, k [R, c, K] are multiplied by the exponentials of the gates' remainders; v is [R, c, V'];
    `weight` [R, c, c] is exp(b + a). `first` [R, c, 1] is the weight of the state before the chunk
    in the outputs, `decay` [R, 1, 1] its weight in the state after the chunk, and `write` [R, c, 1]
    the weight of each step there.
    """

    number: int
    at: slice
    q: Tensor
    k: Tensor
    v: Tensor
    weight: Tensor
    first: Tensor
    write: Tensor
    decay: Tensor


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor | None,
    lf: Tensor,
    state: Tensor | None,
    m0: Tensor | None,
    start: Tensor | None,
    normalizer: str,
    eps: float,
) -> Saved:
    """Arguments as in the operator; sums have the dtype of `lf`."""
    rows, _, heads, keys = q.shape
    gates, m = g.prepare(i, lf, m0, start, None, CHUNK)
    values, normalized = v.shape[-1], normalizer != "none"
    chunks, load = _loader(q, k, v, gates, values + normalized)
    h = v.new_empty(v.shape)
    norm = lf.new_empty(lf.shape) if normalized else None
    states = lf.new_empty(rows, chunks, heads, keys, values + normalized)
    C = lf.new_zeros(states[:, 0].shape) if state is None else state
    C = C.reshape(rows * heads, keys, -1)
    for chunk in map(load, range(chunks)):
        states[:, chunk.number] = C.view(rows, heads, keys, -1)
        p = (chunk.q @ chunk.k.mT).mul_(chunk.weight)
        u = (p @ chunk.v).baddbmm_(chunk.q * chunk.first, C)
        C = (C * chunk.decay).baddbmm_(chunk.k.mT, chunk.v * chunk.write)
        u = u.view(rows, heads, -1, values + normalized).transpose(1, 2)
        if norm is not None:
            norm[:, chunk.at] = u[..., -1]
        here, now = (None if x is None else x[:, chunk.at] for x in (norm, m))
        below = g.divisor(here, now, normalizer, eps)
        if below is None:
            h[:, chunk.at] = u[..., :values]
        else:
            torch.div(u[..., :values], below[..., None], out=h[:, chunk.at])
    last, none = C.view(rows, heads, keys, -1), lf.new_empty(0)
    return Saved(h, last, none if m is None else m, none.clone() if norm is None else norm, states)


def backward(
    grad_h: Tensor,
    grad_last: Tensor | None,
    grad_m: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor | None,
    lf: Tensor,
    m0: Tensor | None,
    start: Tensor | None,
    saved: Saved,
    normalizer: str,
    eps: float,
) -> Grads:
    """The adjoint, from the last chunk to the first."""
    rows, _, heads, keys = q.shape
    m = None if i is None else saved.m
    norm = None if normalizer == "none" else saved.norm
    gates, _ = g.prepare(i, lf, m0, start, m, CHUNK)
    chunks, load = _loader(q, k, v, gates, saved.last.shape[-1])
    read = g.read_backward(grad_h, grad_m, saved.h, norm, m, normalizer, eps)
    into = GradBuffers(*(x.new_empty(x.shape) for x in (q, k, v, lf)))
    grad_C = torch.zeros_like(saved.last) if grad_last is None else grad_last
    grad_C, after = grad_C.reshape(rows * heads, keys, -1), saved.last
    for chunk in map(load, reversed(range(chunks))):
        # The state after the chunk is linear in exp(b) of the chunk's last step.
        ends = (grad_C.view(after.shape) * after).sum((-1, -2))
        read.b[:, chunk.at.stop - 1] += ends
        if read.m is not None and chunk.number + 1 == chunks:
            read.m[:, -1] -= ends
        after = saved.states[:, chunk.number]
        grad_u = _read_gradient(grad_h, read, chunk, after.shape)
        grad_C = _chunk_backward(chunk, grad_u, after, grad_C, gates, into)
    grad_state = grad_C.view(saved.last.shape)
    grad_i, grad_lf, grad_m0 = g.gate_backward(read.b, into.a, read.m, i, lf, m0, m, start, CHUNK)
    if grad_m0 is not None:
        grad_m0 = grad_m0 + (grad_state * after).sum((-1, -2))
    return Grads(into.q, into.k, into.v, grad_i, grad_lf, grad_state, grad_m0)


class GradBuffers(NamedTuple):
    """Gradients filled in chunk by chunk; `a` is for the exponents a."""

    q: Tensor
    k: Tensor
    v: Tensor
    a: Tensor


def _loader(
    q: Tensor, k: Tensor, v: Tensor, gates: g.Gates, columns: int
) -> tuple[int, Callable[[int], Chunk]]:
    """The number of chunks, and a function that makes one."""
    rows, time, heads, _ = q.shape
    causal = gates.a.new_full((CHUNK, CHUNK), -torch.inf).triu(1)
    several = [] if gates.episode is None else gates.episode[:, :, -1].any(1).tolist()

    def load(n: int) -> Chunk:
        at = slice(n * CHUNK, min(time, (n + 1) * CHUNK))
        c = at.stop - at.start
        a, b, query, key, first, decay = (x[n] for x in gates[:-1])
        a, b, query, key, first = (x[..., :c] for x in (a, b, query, key, first))
        lead = (rows, heads, c)
        weight = b[..., None] + a[..., None, :]
        weight += causal[:c, :c]
        if gates.episode is not None and several[n]:
            episode = gates.episode[n, :, None, :c]
            weight.masked_fill_(episode[..., None] != episode[..., None, :], -torch.inf)
        weight.exp_()
        pieces = [weight.new_empty(*lead, size) for size in (q.shape[-1], k.shape[-1], columns)]
        torch.mul(q[:, at].transpose(1, 2), query[..., None], out=pieces[0])
        torch.mul(k[:, at].transpose(1, 2), key[..., None], out=pieces[1])
        pieces[2][..., : v.shape[-1]] = v[:, at].transpose(1, 2)
        pieces[2][..., v.shape[-1] :] = 1
        write = weight[..., -1, :] * query[..., -1:]
        pieces += [weight, first[..., None], write[..., None], decay[..., None, None]]
        return Chunk(n, at, *(x.flatten(0, 1) for x in pieces))

    return -(-time // CHUNK), load


def _read_gradient(grad_h: Tensor, read: g.ReadGrads, chunk: Chunk, state: torch.Size) -> Tensor:
    """The gradient for the chunk's outputs before division, and for the norm, [R, c, V']."""
    rows, heads, _, columns = state
    values = grad_h.shape[-1]
    grad = chunk.v.new_empty(rows, heads, chunk.v.shape[1], columns)
    of_h = grad_h[:, chunk.at].transpose(1, 2)
    if read.scale is None:
        grad[..., :values] = of_h
    else:
        scale = read.scale[:, chunk.at].transpose(1, 2)[..., None]
        torch.mul(of_h, scale, out=grad[..., :values])
    if read.norm is not None:
        grad[..., values] = read.norm[:, chunk.at].transpose(1, 2)
    return grad.flatten(0, 1)


def _chunk_backward(
    chunk: Chunk, grad_u: Tensor, C: Tensor, grad_C: Tensor, gates: g.Gates, into: GradBuffers
) -> Tensor:
    """Fill in `into` for this chunk; returns the gradient for the state before it."""
    rows, heads, keys, columns = C.shape
    lead, c, values = (rows, heads, -1), chunk.q.shape[1], into.v.shape[-1]
    first = grad_u * chunk.first
    p = chunk.q @ chunk.k.mT
    score = (grad_u @ chunk.v.mT).mul_(chunk.weight)
    grad_q = (score @ chunk.k).baddbmm_(first, C.reshape(-1, keys, columns).mT)
    grad_k = (score.mT @ chunk.q).baddbmm_(chunk.v * chunk.write, grad_C.mT)
    grad_v = (p.mul_(chunk.weight).mT @ grad_u).baddbmm_(chunk.k * chunk.write, grad_C)
    # A result that depends on an exponent is linear in its exponential.
    into.a[:, chunk.at] = (grad_k * chunk.k).sum(-1).view(lead).transpose(1, 2)
    for to, grad, rest in ((into.q, grad_q, gates.query), (into.k, grad_k, gates.key)):
        by_head = to[:, chunk.at].transpose(1, 2)
        torch.mul(grad.view(*lead, keys), rest[chunk.number, ..., :c, None], out=by_head)
    into.v[:, chunk.at] = grad_v.view(*lead, columns)[..., :values].transpose(1, 2)
    return (grad_C * chunk.decay).baddbmm_(chunk.q.mT, first)
