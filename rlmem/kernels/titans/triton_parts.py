"""Device functions of `triton_kernels.py`: pieces of a row, tiles, gelu, and errors cut in length.

The tokens of a piece are rows of C, at least the length of a chunk; those past the piece are zeros.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

BORDER = tl.constexpr(1)  # marks of a token: a piece, an episode, a chunk begins with it
BEGINS = tl.constexpr(2)
OPENS = tl.constexpr(4)


@triton.jit
@no_type_check
def dot(x, y):
    return tl.dot(x, y, input_precision="tf32x3")


@triton.jit
@no_type_check
def load_rows(x, stride, width, first, length, C: tl.constexpr, BLOCK: tl.constexpr):
    """[C, BLOCK] of rows at x, `stride` apart, from column `first`; 0 out of bounds."""
    step, d = tl.arange(0, C), tl.arange(0, BLOCK)
    inside = (step < length)[:, None] & (d < width - first)[None, :]
    return tl.load(x + first + ((step * stride)[:, None] + d[None, :]), inside, 0.0)


@triton.jit
@no_type_check
def put_rows(x, new, stride, width, first, length, C: tl.constexpr, BLOCK: tl.constexpr):
    step, d = tl.arange(0, C), tl.arange(0, BLOCK)
    inside = (step < length)[:, None] & (d < width - first)[None, :]
    tl.store(x + first + ((step * stride)[:, None] + d[None, :]), new, inside)


@triton.jit
@no_type_check
def scalars(x, begin, H, width, column, length, C: tl.constexpr):
    """One column of a piece's part of a [B, T, H, width] tensor, [C]."""
    step = tl.arange(0, C)
    return tl.load(x + (begin * width + column) + step * (H * width), step < length, 0.0)


@triton.jit
@no_type_check
def tile(x, rows, width, i0, j0, wanted, BI: tl.constexpr, BJ: tl.constexpr):
    """A tile of a matrix [rows, width]; 0 out of bounds or if not `wanted`."""
    i, j = tl.arange(0, BI), tl.arange(0, BJ)
    inside = (i < tl.where(wanted, rows - i0, 0))[:, None] & (j < width - j0)[None, :]
    return tl.load(x + (i0 * width + j0) + (i[:, None] * width + j[None, :]), inside, 0.0)


@triton.jit
@no_type_check
def put_tile(x, new, rows, width, i0, j0, wanted, BI: tl.constexpr, BJ: tl.constexpr):
    i, j = tl.arange(0, BI), tl.arange(0, BJ)
    inside = (i < tl.where(wanted, rows - i0, 0))[:, None] & (j < width - j0)[None, :]
    tl.store(x + (i0 * width + j0) + (i[:, None] * width + j[None, :]), new, inside)


@triton.jit
@no_type_check
def length_from(marks, t, T, C: tl.constexpr):
    """The length of the piece that begins at t: up to the next border."""
    step = tl.arange(0, C)
    ahead = tl.load(marks + t + 1 + step, step < T - t - 1, 1)
    return tl.min(tl.where((ahead & BORDER) != 0, step + 1, C), 0)


@triton.jit
@no_type_check
def length_before(marks, end, C: tl.constexpr):
    """The length of the piece that ends before `end`: back to its border."""
    step = tl.arange(0, C)
    back = tl.load(marks + end - 1 - step, step < end, 1)
    return tl.min(tl.where((back & BORDER) != 0, step + 1, C), 0)


@triton.jit
@no_type_check
def sources(mark, t, first, weight, momentum, anchor, states, r, H, N, CHUNK, SLOTS):
    """Addresses of A, momentum and anchor before the piece that begins at t."""
    own = r.to(tl.int64) * N
    begins, opens = (mark & BEGINS) != 0, (mark & OPENS) != 0
    kept = slot(states, t, r, H, N, CHUNK, SLOTS)
    A = tl.where(begins, first + (r % H) * N, tl.where(t == 0, weight + own, kept))
    S = tl.where(t == 0, momentum + own, kept + N)
    return A, S, tl.where(opens, A, anchor + own)


@triton.jit
@no_type_check
def slot(states, t, r, H, N, CHUNK, SLOTS):
    """Where the state before the piece at t is kept: no two in a span of CHUNK tokens need one.

    A piece that begins with an episode needs none, and others are at least CHUNK tokens apart.
    """
    place = ((r // H).to(tl.int64) * SLOTS + (t // CHUNK) % SLOTS) * H + r % H
    return states + place * (2 * N)


@triton.jit
@no_type_check
def gelu(x):
    return 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))


@triton.jit
@no_type_check
def gelu_slope(x):
    return 0.5 * (1 + tl.erf(x * 0.7071067811865476)) + x * density(x)


@triton.jit
@no_type_check
def density(x):
    """Of the normal distribution; `density(x) * (2 - x * x)` is the second derivative of gelu."""
    return tl.exp(-0.5 * x * x) * 0.3989422804014327


@triton.jit
@no_type_check
def factor(square, limit):
    """By how much rows of this squared length are shortened to the length `limit`."""
    return limit / tl.sqrt(tl.maximum(square, limit * limit))


@triton.jit
@no_type_check
def share(square, limit, along):
    """The gradient's part along x that a cut of x takes away, in units of x; `along` is x.grad."""
    long = square > limit * limit
    return tl.where(long, along / tl.where(long, square, 1.0), 0.0)


@triton.jit
@no_type_check
def reach_of(delta, begin, H, length, C: tl.constexpr):
    """The longest slope of Huber's loss; not 0 for tokens that do not exist, which gives NaN."""
    return 2 * tl.maximum(scalars(delta, begin, H, 1, 0, length, C), 1e-18)


@triton.jit
@no_type_check
def cut(x, limit):
    """Rows of x, shortened to the length `limit` [C] if they are longer."""
    return x * factor(tl.sum(x * x, 1), limit)[:, None]


@triton.jit
@no_type_check
def cut_back(x, limit, grad):
    """The gradient of x from that of `cut(x, limit)`, and the gradient of the limit."""
    square, along = tl.sum(x * x, 1), tl.sum(x * grad, 1)
    scale, over = factor(square, limit), share(square, limit, along)
    return scale[:, None] * (grad - x * over[:, None]), over * tl.sqrt(square)


@triton.jit
@no_type_check
def coefficients_at(past, effect, push, begin, H, J, length, C: tl.constexpr):
    """A piece's `past` of each token; `effect` [C, C]; both of its last token; `past` of that."""
    keep = scalars(past, begin, H, 3, 0, length, C)[:, None]
    carry = scalars(past, begin, H, 3, 1, length, C)[:, None]
    mix = load_rows(effect + begin * J, H * J, J, 0, length, C, C)
    final, j = begin + (length - 1) * H, tl.arange(0, C)
    in_A = tl.load(effect + final * J + j, j < J, 0.0)[:, None]
    in_S = tl.load(push + final * J + j, j < J, 0.0)[:, None]
    last = past + final * 3
    ends = tl.load(last), tl.load(last + 1), tl.load(last + 2)
    return keep, carry, mix, in_A, in_S, ends
