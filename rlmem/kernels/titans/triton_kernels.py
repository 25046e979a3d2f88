"""Triton kernels of the memory that learns at test time; `triton_form.py` launches them.

One program computes all pieces of one head of one row, one after the other. The equations are those
of `torch_form.py`: `effect` and `push` [B, T, H, J] are the coefficients of the J-th token of the
piece in A and momentum after each token; `past` [B, T, H, 3] those of A and momentum before the
piece. The matrices of a head are N numbers, one matrix after the other; before the pieces of a row
they are in `states`. A memory of one matrix is the second layer of a perceptron whose hidden units
are the keys. `scratch` is memory for one piece of each program.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from rlmem.kernels.titans.triton_backward_kernels import (
    error_kernel,
    learn_backward_kernel,
    read_backward_kernel,
)
from rlmem.kernels.titans.triton_parts import (
    BEGINS,
    coefficients_at,
    cut,
    factor,
    length_from,
    load_rows,
    put_rows,
    reach_of,
    slot,
    sources,
)
from rlmem.kernels.titans.triton_stages import (
    gram,
    hidden_errors,
    learn,
    multiply,
    read,
)

__all__ = [
    "error_kernel",
    "forward_kernel",
    "learn_backward_kernel",
    "read_backward_kernel",
]


@triton.jit(do_not_specialize=["T", "J", "CHUNK", "SLOTS"])
@no_type_check
def forward_kernel(
    q, k, v, delta, past, effect, push, marks, first, weight, momentum, anchor, states, scratch, y,
    last_weight, last_momentum, last_anchor, limit, T, H, K, F, V, J, CHUNK, SLOTS,
    LAYERS: tl.constexpr, LIMITED: tl.constexpr, HUBER: tl.constexpr, C: tl.constexpr,
    BV: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The answers, and A, momentum and anchor after the row; `states` before the pieces."""
    ACT: tl.constexpr = LAYERS == 2
    r = tl.program_id(0)
    row = (r // H).to(tl.int64)
    D = K * F if ACT else 0  # where the second layer begins
    N = D + F * V
    own = r.to(tl.int64) * N
    a = scratch + r.to(tl.int64) * C * (3 * F + V)
    back, x, wrong = a + C * F, a + 2 * C * F, a + 3 * C * F
    t = 0 * r
    while t < T:
        mark, length = tl.load(marks + row * T + t), length_from(marks + row * T, t, T, C)
        begins = (mark & BEGINS) != 0
        A, S, Z = sources(mark, t, first, weight, momentum, anchor, states, r, H, N, CHUNK, SLOTS)
        following = t + length
        is_last = following == T
        after = tl.load(marks + row * T + following, is_last == 0, 0)
        goes_on = (after & BEGINS) == 0
        kept = slot(states, following, r, H, N, CHUNK, SLOTS)
        to_A = tl.where(is_last, last_weight + own, kept)
        to_S = tl.where(is_last, last_momentum + own, kept + N)
        to_Z = last_anchor + own
        begin = (row * T + t) * H + r % H
        keep, carry, mix, in_A, in_S, ends = coefficients_at(
            past, effect, push, begin, H, J, length, C
        )
        queries, keys, values = q + begin * K, k + begin * K, v + begin * V
        one = tl.full([C, 1], 1.0, tl.float32)
        seen, seen_stride, asked, asked_stride = keys, H * K, queries, H * K
        if ACT:
            multiply(keys, H * K, Z, a, F, K, F, length, one, a, F, 0.0, False, False, C, BLOCK)
            seen, seen_stride, asked, asked_stride = a, F, x, F
            tl.debug_barrier()
        multiply(
            seen, seen_stride, Z + D, wrong, V, F, V, length, 2.0 * one, values, H * V, -1.0, ACT,
            True, C, BLOCK,
        )  # fmt: skip
        tl.debug_barrier()
        error = load_rows(wrong, V, V, 0, length, C, BV)
        bound = tl.zeros([C], tl.float32) + limit
        if HUBER:
            error = cut(error, reach_of(delta, begin, H, length, C))
        if LIMITED:
            error = cut(error, bound)
        tl.debug_barrier()
        put_rows(wrong, error, V, V, 0, length, C, BV)
        tl.debug_barrier()
        if ACT:
            square = hidden_errors(wrong, V, Z + D, a, back, F, F, V, length, C, BLOCK)
            scale = one
            if LIMITED:
                scale = factor(square, bound)[:, None]
            P = gram(queries, H * K, keys, H * K, K, length, False, C, BLOCK) * mix
            tl.debug_barrier()
            read(
                queries, H * K, back, F, scale, P, A, S, keep, carry, x, F, K, F, length, begins,
                False, C, BLOCK,
            )  # fmt: skip
            learn(
                keys, H * K, back, F, scale, A, S, Z, to_A, to_S, to_Z, in_A, in_S, ends, K, F,
                length, begins, goes_on, is_last, False, C, BLOCK,
            )  # fmt: skip
            tl.debug_barrier()
        P = gram(asked, asked_stride, seen, seen_stride, F, length, ACT, C, BLOCK) * mix
        read(
            asked, asked_stride, wrong, V, one, P, A + D, S + D, keep, carry, y + begin * V, H * V,
            F, V, length, begins, ACT, C, BLOCK,
        )  # fmt: skip
        learn(
            seen, seen_stride, wrong, V, one, A + D, S + D, Z + D, to_A + D, to_S + D, to_Z + D,
            in_A, in_S, ends, F, V, length, begins, goes_on, is_last, ACT, C, BLOCK,
        )  # fmt: skip
        # The next piece reads the matrices that other threads have written.
        tl.debug_barrier()
        t = following
