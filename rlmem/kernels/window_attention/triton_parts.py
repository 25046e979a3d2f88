"""Device functions of `triton_kernels.py`: loads and stores, products, scores.

Shapes and names are those of `triton_kernels.py`.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

SLICE = tl.constexpr(16)  # numbers of a row multiplied at once; the minimum for tensor cores


@triton.jit
@no_type_check
def dot(x, y):
    return tl.dot(x, y, input_precision="tf32x3")


@triton.jit
@no_type_check
def place(first, N, H, ROWS: tl.constexpr, COLUMNS: tl.constexpr, W: tl.constexpr):
    """Addresses of positions from `first` of a [B, N, H, W] tensor, for this program's head.

    Returns the base, offsets from it [ROWS, COLUMNS], and which positions exist [ROWS, 1].
    """
    r = tl.program_id(0)
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    begin = (((r // H).to(tl.int64) * N + first) * H + r % H) * W
    # One 64-bit base and a tile of 32-bit offsets: addresses take many registers.
    return begin, row * (H * W) + column, row < N - first


@triton.jit
@no_type_check
def load(x, first, N, H, ROWS: tl.constexpr, W: tl.constexpr):
    begin, places, inside = place(first, N, H, ROWS, W, W)
    return tl.load(x + begin + places, inside, 0)


@triton.jit
@no_type_check
def store(x, tile, first, N, H, ROWS: tl.constexpr, W: tl.constexpr):
    begin, places, inside = place(first, N, H, ROWS, W, W)
    tl.store(x + begin + places, tile, inside)


@triton.jit
@no_type_check
def products(x, y, t0, j0, T, M, H, BT: tl.constexpr, BJ: tl.constexpr, W: tl.constexpr):
    """x[t] . y[j] of positions from t0 and keys from j0, [BT, BJ].

    In slices of W: with whole blocks, a loop would keep all of a block in registers.
    """
    total = tl.zeros([BT, BJ], tl.float32)
    x_begin, x_places, x_inside = place(t0, T, H, BT, SLICE, W)
    y_begin, y_places, y_inside = place(j0, M + T, H, BJ, SLICE, W)
    for w in range(0, W, SLICE):
        left = tl.load(x + (x_begin + w) + x_places, x_inside, 0)
        right = tl.load(y + (y_begin + w) + y_places, y_inside, 0)
        total += dot(left, tl.trans(right))
    return total


@triton.jit
@no_type_check
def by_position(first, T, BT: tl.constexpr):
    """Addresses of positions from `first` of a [B, H, T] tensor, and which exist."""
    t = first + tl.arange(0, BT)
    return tl.program_id(0).to(tl.int64) * T + t, t < T


@triton.jit
@no_type_check
def window(t0, j0, T, M, H, BT: tl.constexpr, BJ: tl.constexpr):
    """Addresses of keys from `j0` for positions from `t0` in a [H, B, T, M+1] tensor.

    Returns the base, offsets from it [BT, BJ], and which keys are in a position's window.
    """
    r = tl.program_id(0)
    row = (r % H).to(tl.int64) * (tl.num_programs(0) // H) + r // H
    t, ahead = tl.arange(0, BT)[:, None], (j0 - t0) + tl.arange(0, BJ)[None, :]
    inside = (ahead >= t) & (ahead <= t + M) & (t < T - t0)
    return (row * T + t0) * (M + 1), t * M + ahead, inside


@triton.jit
@no_type_check
def scores(
    query,
    key,
    by_offset,
    segment,
    t0,
    j0,
    T,
    M,
    H,
    BT: tl.constexpr,
    BJ: tl.constexpr,
    W: tl.constexpr,
):
    """[BT, BJ]; minus infinity if a position does not see a key."""
    begin, places, inside = window(t0, j0, T, M, H, BT, BJ)
    numbers = segment + (tl.program_id(0) // H).to(tl.int64) * (M + T)
    t, j = t0 + tl.arange(0, BT), j0 + tl.arange(0, BJ)
    here = tl.load(numbers + M + t, t < T, 0).to(tl.int32)
    there = tl.load(numbers + j, j < M + T, 0).to(tl.int32)
    seen = inside & (here[:, None] == there[None, :])
    s = products(query, key, t0, j0, T, M, H, BT, BJ, W)
    if by_offset is not None:
        s += tl.load(by_offset + begin + places, seen, 0)
    return tl.where(seen, s, float("-inf"))
