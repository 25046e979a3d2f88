"""Triton kernels of attention over a window; `gpu.py` launches them.

A program owns a block of queries, or of keys, of one row and head, and walks over the blocks of the
others that it sees. Scores are never kept: the backward computes them again from the logarithm of
their sums, as in FlashAttention (Dao et al. 2022, arXiv 2205.14135, algorithms 1 and 4).

query [B, T, H, W]; key and value [B, M+T, H, W], W a power of two; segment [B, M+T]; log_sum and
common [B, H, T]. Position t sees keys t to t + M; `by_offset` [H, B, T, M+1] has what is added to
their scores, the farthest first. Products of float32 are taken as three TF32 products each.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

SLICE = tl.constexpr(16)  # of a row that is multiplied at once; tensor cores take no fewer


@triton.jit
@no_type_check
def dot(x, y):
    return tl.dot(x, y, input_precision="tf32x3")


@triton.jit
@no_type_check
def place(first, N, H, ROWS: tl.constexpr, COLUMNS: tl.constexpr, W: tl.constexpr):
    """Where positions from `first` of a [B, N, H, W] tensor are for this program's head.

    Their beginning, places from there [ROWS, COLUMNS], and which of the positions exist, [ROWS, 1].
    """
    r = tl.program_id(0)
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    begin = (((r // H).to(tl.int64) * N + first) * H + r % H) * W
    # A long number and a tile of short ones: addresses take many registers.
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

    In slices of W: the registers of a block that a loop goes over would be taken for all of it.
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
    """Where positions from `first` of a [B, H, T] tensor are, and which exist."""
    t = first + tl.arange(0, BT)
    return tl.program_id(0).to(tl.int64) * T + t, t < T


@triton.jit
@no_type_check
def window(t0, j0, T, M, H, BT: tl.constexpr, BJ: tl.constexpr):
    """Where keys from `j0` are for positions from `t0` in a [H, B, T, M+1] tensor.

    The beginning, places from there [BT, BJ], and which are of a position and in its window.
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
    """[BT, BJ]; minus infinity where a position does not see a key."""
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


@triton.jit(do_not_specialize=["T"])
@no_type_check
def forward_kernel(
    query,
    key,
    value,
    by_offset,
    segment,
    y,
    log_sum,
    T,
    M,
    H,
    BT: tl.constexpr,
    BJ: tl.constexpr,
    W: tl.constexpr,
):
    """y and the logarithm of the weights' sums; one program per block of queries."""
    t0 = tl.program_id(1) * BT
    top = tl.full([BT], float("-inf"), tl.float32)
    total = tl.zeros([BT], tl.float32)
    mean = tl.zeros([BT, W], tl.float32)
    for j0 in range(t0, tl.minimum(t0 + BT, T) + M, BJ):
        s = scores(query, key, by_offset, segment, t0, j0, T, M, H, BT, BJ, W)
        higher = tl.maximum(top, tl.max(s, 1))
        # As long as nothing is seen, infinity minus infinity must not come up.
        level = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp(s - level[:, None])
        fade = tl.exp(top - level)
        total = total * fade + tl.sum(weights, 1)
        values = load(value, j0, M + T, H, BJ, W)
        mean = mean * fade[:, None] + dot(weights, values)
        top = higher
    store(y, mean / total[:, None], t0, T, H, BT, W)
    at, valid = by_position(t0, T, BT)
    tl.store(log_sum + at, top + tl.log(total), valid)


@triton.jit(do_not_specialize=["T"])
@no_type_check
def query_backward_kernel(
    grad_y,
    query,
    key,
    value,
    by_offset,
    segment,
    log_sum,
    common,
    grad_query,
    grad_by_offset,
    T,
    M,
    H,
    BT: tl.constexpr,
    BJ: tl.constexpr,
    W: tl.constexpr,
):
    """The gradients for query and, every entry once, by_offset; a program per block of queries."""
    t0 = tl.program_id(1) * BT
    at, valid = by_position(t0, T, BT)
    level, less = tl.load(log_sum + at, valid, 0), tl.load(common + at, valid, 0)
    into = tl.zeros([BT, W], tl.float32)
    for j0 in range(t0, tl.minimum(t0 + BT, T) + M, BJ):
        s = scores(query, key, by_offset, segment, t0, j0, T, M, H, BT, BJ, W)
        grad_weights = products(grad_y, value, t0, j0, T, M, H, BT, BJ, W)
        grad_s = tl.exp(s - level[:, None]) * (grad_weights - less[:, None])
        into += dot(grad_s, load(key, j0, M + T, H, BJ, W))
        if by_offset is not None:
            begin, places, inside = window(t0, j0, T, M, H, BT, BJ)
            tl.store(grad_by_offset + begin + places, grad_s, inside)
    store(grad_query, into, t0, T, H, BT, W)


@triton.jit(do_not_specialize=["T"])
@no_type_check
def key_backward_kernel(
    grad_y,
    query,
    key,
    value,
    by_offset,
    segment,
    log_sum,
    common,
    grad_key,
    grad_value,
    T,
    M,
    H,
    BT: tl.constexpr,
    BJ: tl.constexpr,
    W: tl.constexpr,
):
    """The gradients for key and value; a program per block of keys."""
    j0 = tl.program_id(1) * BJ
    into_key = tl.zeros([BJ, W], tl.float32)
    into_value = tl.zeros([BJ, W], tl.float32)
    for t0 in range(tl.maximum(j0 - M, 0), tl.minimum(j0 + BJ, T), BT):
        s = scores(query, key, by_offset, segment, t0, j0, T, M, H, BT, BJ, W)
        at, valid = by_position(t0, T, BT)
        weights = tl.exp(s - tl.load(log_sum + at, valid, 0)[:, None])
        into_value += dot(tl.trans(weights), load(grad_y, t0, T, H, BT, W))
        less = tl.load(common + at, valid, 0)
        grad_weights = products(grad_y, value, t0, j0, T, M, H, BT, BJ, W)
        grad_s = weights * (grad_weights - less[:, None])
        into_key += dot(tl.trans(grad_s), load(query, t0, T, H, BT, W))
    store(grad_key, into_key, j0, M + T, H, BJ, W)
    store(grad_value, into_value, j0, M + T, H, BJ, W)
