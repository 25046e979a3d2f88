"""Triton kernels of the short convolution; `triton_form.py` launches them.

One program computes STEPS positions of CHANNELS channels of one row, UNROLL steps of the filter at
a time. x, y and their gradients are [B, T, D], weight [D, W], window [B, W-1, D], all contiguous;
sums are in float32 or wider.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from rlmem.kernels.short_conv.triton_parts import begins, locate, past, tap, wide


@triton.jit(do_not_specialize=["T", "W"])
@no_type_check
def forward_kernel(
    x,
    weight,
    bias,
    window,
    start,
    y,
    T,
    D,
    W,
    STEPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """`y[t] = bias + sum_j weight[:, W-1-j] x[t-j]` over the `t-j` in t's episode."""
    row, first, i, d, place = locate(T, D, STEPS, CHANNELS)
    inside = d < D
    sum = tl.zeros((STEPS, CHANNELS), wide(x).dtype) + wide(tl.load(bias + d, inside, 0))[None, :]
    alive = first + i < T
    for j in tl.range(0, W, loop_unroll_factor=UNROLL):
        # Step t - j is another episode's if one begins after it.
        alive &= (j == 0) | ~begins(start, row, first - j + 1 + i, T)
        there = alive[:, None] & inside[None, :]
        read = past(x, window, row, first - j, i, place, there, T, D, W)
        sum += tap(weight, d, j, D, W)[None, :] * read
    at = y + (row * T + first) * D + place
    tl.store(at, sum.to(y.dtype.element_ty), (first + i < T)[:, None] & inside[None, :])


@triton.jit(do_not_specialize=["T", "W"])
@no_type_check
def backward_kernel(
    grad_y,
    x,
    weight,
    window,
    start,
    grad_x,
    grad_window,
    sums,
    T,
    D,
    W,
    STEPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """The adjoint. Positions begin at that of the window's first step, W - 1 before the row.

    `sums` [programs of a channel, W + 1, D] has each program's share of the gradients of weight,
    by j, and of bias.
    """
    row, first, i, d, place = locate(T + W - 1, D, STEPS, CHANNELS)
    first -= W - 1
    inside = d < D
    grad = tl.zeros((STEPS, CHANNELS), wide(x).dtype)
    exists = (first + i < T)[:, None] & inside[None, :]
    read = past(x, window, row, first, i, place, exists, T, D, W)
    share = sums + tl.program_id(0).to(tl.int64) // tl.cdiv(D, CHANNELS) * (W + 1) * D + d
    alive = first + i < T
    for j in tl.range(0, W, loop_unroll_factor=UNROLL):
        # The step j later reads this one unless an episode begins in between.
        later = first + j + i
        alive &= (j == 0) | ~begins(start, row, later, T)
        there = (alive & (later >= 0) & (later < T))[:, None] & inside[None, :]
        g = wide(tl.load(grad_y + (row * T + first + j) * D + place, there, 0))
        grad += tap(weight, d, j, D, W)[None, :] * g
        tl.store(share + j * D, tl.sum(tl.where(there, g * read, 0), 0), inside)
        if j == 0:
            tl.store(share + W * D, tl.sum(g, 0), inside)
    grad = grad.to(grad_x.dtype.element_ty)
    at = grad_x + (row * T + first) * D + place
    tl.store(at, grad, exists & (first + i >= 0)[:, None])
    at = grad_window + (row * (W - 1) + first + W - 1) * D + place
    tl.store(at, grad, exists & (first + i < 0)[:, None])
