"""Triton kernels of attention over a sliding window; `triton_form.py` launches them.

A program computes a block of queries, or of keys, of one row and head, in a loop over the blocks of
the other kind in its window. Scores are not stored: the backward recomputes them from the logarithm
of their sums, as in FlashAttention (Dao et al. 2022, arXiv 2205.14135, algorithms 1 and 4).

query [B, T, H, W]; key and value [B, M+T, H, W], W a power of two; segment [B, M+T]; log_sum and
common [B, H, T]. Position t sees keys t to t + M; `by_offset` [H, B, T, M+1] is added to their
scores, the farthest key first. float32 products are computed as three TF32 products each.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from rlmem.kernels.window_attention.triton_parts import (
    by_position,
    dot,
    load,
    products,
    scores,
    store,
    window,
)


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
    """y, and the logarithm of the weights' sums; one program per block of queries."""
    t0 = tl.program_id(1) * BT
    top = tl.full([BT], float("-inf"), tl.float32)
    total = tl.zeros([BT], tl.float32)
    mean = tl.zeros([BT, W], tl.float32)
    for j0 in range(t0, tl.minimum(t0 + BT, T) + M, BJ):
        s = scores(query, key, by_offset, segment, t0, j0, T, M, H, BT, BJ, W)
        higher = tl.maximum(top, tl.max(s, 1))
        # While no key is visible yet, avoid infinity minus infinity.
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
    """Gradients for query and by_offset (each entry once); one program per block of queries."""
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
    """Gradients for key and value; one program per block of keys."""
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
