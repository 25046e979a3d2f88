"""Parts of the matrix memory's Triton kernels: where things are, weights, products."""

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
    """Steps of chunk c, which of them exist, and where they are in a [B, T, H] tensor."""
    t = c * C + tl.arange(0, C)
    return t, t < T, ((r // H).to(tl.int64) * T + t) * H + r % H


@triton.jit
@no_type_check
def _tile(r, c, begin, T, H, D, C: tl.constexpr, BLOCK: tl.constexpr):
    _, valid, gate = place(r, c, T, H, C)
    d = begin + tl.arange(0, BLOCK)
    return gate[:, None] * D + d[None, :], valid[:, None] & (d < D)[None, :]


@triton.jit
@no_type_check
def load(x, r, c, begin, T, H, D, C: tl.constexpr, BLOCK: tl.constexpr):
    """[C, BLOCK] of a [B, T, H, D] tensor in float32, from channel `begin`; 0 outside."""
    at, inside = _tile(r, c, begin, T, H, D, C, BLOCK)
    return tl.load(x + at, inside, 0).to(tl.float32)


@triton.jit
@no_type_check
def store(x, tile, r, c, begin, T, H, D, C: tl.constexpr, BLOCK: tl.constexpr):
    at, inside = _tile(r, c, begin, T, H, D, C, BLOCK)
    tl.store(x + at, tile.to(x.dtype.element_ty), inside)


@triton.jit
@no_type_check
def load_state(
    x, at, ks, vs, K, V, width, NORM: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr
):
    """A tile [BK, BV] of state number `at`, and with NORM its part [BK] of n."""
    k, v = ks + tl.arange(0, BK), vs + tl.arange(0, BV)
    row = (at.to(tl.int64) * K + k) * width
    S = tl.load(x + row[:, None] + v[None, :], (k < K)[:, None] & (v < V)[None, :], 0)
    n = tl.zeros([BK], tl.float32)
    if NORM:
        n = tl.load(x + row + V, k < K, 0)
    return S, n


@triton.jit
@no_type_check
def store_state(
    x, S, n, at, ks, vs, K, V, width, NORM: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr
):
    k, v = ks + tl.arange(0, BK), vs + tl.arange(0, BV)
    row = (at.to(tl.int64) * K + k) * width
    tl.store(x + row[:, None] + v[None, :], S, (k < K)[:, None] & (v < V)[None, :])
    if NORM:
        tl.store(x + row + V, n, (k < K) & (tl.zeros_like(k) + vs == 0))


@triton.jit
@no_type_check
def weights(a, b, episode, c, g, r, T, R, H, C: tl.constexpr):
    """exp(b[t] + a[s]) where step s is no later than t and of its episode, else 0; [C, C].

    What is not wanted never reaches `exp`: it could overflow, and 0 * inf is NaN.
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
    """How much each step weighs in the next chunk's first state, its rests included; [C]."""
    step = tl.arange(0, C)
    last = tl.minimum(C, T - c * C) - 1
    wanted = step <= last
    if episode is not None:
        number = episode + (c * (R // H) + r // H) * C
        wanted = wanted & (tl.load(number + step) == tl.load(number + last))
    exponent = tl.load(b + g * C + last) + tl.load(a + g * C + step)
    rest = tl.load(query + g * C + last) * tl.load(key + g * C + step)
    return tl.exp(tl.where(wanted, exponent, float("-inf"))) * rest
