"""Device functions of `triton_kernels.py`: loads and stores, weights, a matrix product."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def dot(x, y, like):
    """x @ y in the dtype that `like` points to, accumulated in float32."""
    dtype = like.dtype.element_ty
    return tl.dot(x.to(dtype), y.to(dtype), input_precision="tf32x3")


@triton.jit
@no_type_check
def place(r, c, T, H, C: tl.constexpr):
    """Chunk c of a [B, T, H] tensor: its offset, its steps from there, and which steps exist."""
    step = tl.arange(0, C)
    begin = ((r // H).to(tl.int64) * T + c * C) * H + r % H
    return begin, step * H, step < T - c * C


@triton.jit
@no_type_check
def load(x, r, c, first, T, H, D, C: tl.constexpr, BLOCK: tl.constexpr):
    """[C, BLOCK] of a [B, T, H, D] tensor in float32, from channel `first`; 0 out of bounds."""
    begin, steps, valid = place(r, c, T, H, C)
    d = tl.arange(0, BLOCK)
    inside = valid[:, None] & (d < D - first)[None, :]
    # One 64-bit base and a tile of 32-bit offsets: addresses take many registers.
    at = x + (begin * D + first)
    return tl.load(at + (steps[:, None] * D + d[None, :]), inside, 0).to(tl.float32)


@triton.jit
@no_type_check
def store(x, tile, r, c, first, T, H, D, C: tl.constexpr, BLOCK: tl.constexpr):
    begin, steps, valid = place(r, c, T, H, C)
    d = tl.arange(0, BLOCK)
    inside = valid[:, None] & (d < D - first)[None, :]
    at = x + (begin * D + first)
    tl.store(at + (steps[:, None] * D + d[None, :]), tile.to(x.dtype.element_ty), inside)


@triton.jit
@no_type_check
def load_gate(x, r, c, T, H, C: tl.constexpr):
    """[C] of a [B, T, H] tensor; 0 outside the tensor."""
    begin, steps, valid = place(r, c, T, H, C)
    return tl.load(x + begin + steps, valid, 0)


@triton.jit
@no_type_check
def store_gate(x, gate, wanted, r, c, T, H, C: tl.constexpr):
    """Store `gate` if the scalar `wanted` is true."""
    begin, steps, valid = place(r, c, T, H, C)
    tl.store(x + begin + steps, gate, valid & (tl.zeros_like(steps) + wanted != 0))


@triton.jit
@no_type_check
def load_state(x, at, ks, vs, K, V, width, NORM: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):
    """A tile [BK, BV] of the state with index `at` and, with NORM, the entries [BK] of its n."""
    k, v = tl.arange(0, BK), tl.arange(0, BV)
    begin = x + (at.to(tl.int64) * K + ks) * width
    inside = (k < K - ks)[:, None] & (v < V - vs)[None, :]
    S = tl.load(begin + vs + (k[:, None] * width + v[None, :]), inside, 0)
    n = tl.zeros([BK], tl.float32)
    if NORM:
        n = tl.load(begin + V + k * width, k < K - ks, 0)
    return S, n


@triton.jit
@no_type_check
def store_state(
    x, S, n, at, ks, vs, K, V, width, NORM: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr
):
    k, v = tl.arange(0, BK), tl.arange(0, BV)
    begin = x + (at.to(tl.int64) * K + ks) * width
    inside = (k < K - ks)[:, None] & (v < V - vs)[None, :]
    tl.store(begin + vs + (k[:, None] * width + v[None, :]), S, inside)
    if NORM:
        tl.store(begin + V + k * width, n, (k < K - ks) & (tl.zeros_like(k) + vs == 0))


@triton.jit
@no_type_check
def weights(a, b, episode, c, g, r, T, R, H, C: tl.constexpr):
    """exp(b[t] + a[s]) if step s is no later than t and in the same episode, else 0; [C, C].

    Unwanted exponents are masked before `exp`: they could overflow, and 0 * inf is NaN.
    """
    step = tl.arange(0, C)
    t, s = step[:, None], step[None, :]
    wanted = (s <= t) & (c * C + t < T)
    if episode is not None:
        number = episode + (c * (R // H) + r // H) * C
        wanted = wanted & (tl.load(number + t) == tl.load(number + s))
    exponent = tl.load(b + g * C + step)[:, None] + tl.load(a + g * C + step)[None, :]
    return tl.exp(tl.where(wanted, exponent, float("-inf")))


@triton.jit
@no_type_check
def write_weights(a, b, query, key, episode, c, g, r, T, R, H, C: tl.constexpr):
    """The weight of each step in the state after the chunk, its remainders included; [C]."""
    step = tl.arange(0, C)
    last = tl.minimum(C, T - c * C) - 1
    wanted = step <= last
    if episode is not None:
        number = episode + (c * (R // H) + r // H) * C
        wanted = wanted & (tl.load(number + step) == tl.load(number + last))
    exponent = tl.load(b + g * C + last) + tl.load(a + g * C + step)
    rest = tl.load(query + g * C + last) * tl.load(key + g * C + step)
    return tl.exp(tl.where(wanted, exponent, float("-inf"))) * rest
