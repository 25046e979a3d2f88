"""Triton kernels of the backward of Titans; see `triton_kernels.py`."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from rlmem.kernels.titans.triton_parts import (
    BEGINS,
    OPENS,
    coefficients_at,
    cut,
    cut_back,
    factor,
    length_before,
    length_from,
    load_rows,
    put_rows,
    reach_of,
    scalars,
    share,
    sources,
)
from rlmem.kernels.titans.triton_stages import (
    anchor_back,
    error_back,
    gram,
    hidden_back,
    hidden_errors,
    key_back,
    mixed_back,
    multiply,
    product_sums,
    put_ends,
    read,
    read_back,
    seen_back,
    state_back,
    wrong_back,
)


@triton.jit(do_not_specialize=["T", "CHUNK", "SLOTS"])
@no_type_check
def error_kernel(
    k, v, delta, marks, first, weight, anchor, states, a, back, square, raw, wrong, limit, T, H, K,
    F, V, CHUNK, SLOTS, LAYERS: tl.constexpr, LIMITED: tl.constexpr, HUBER: tl.constexpr,
    C: tl.constexpr, BV: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The errors of all tokens, for the backward, from the states before the pieces.

    By token: inputs `a` [F] of the hidden units, their errors `back` before the cut and its squared
    length, and the slope of the error before (`raw` [V]) and after (`wrong`) its cuts.
    """
    ACT: tl.constexpr = LAYERS == 2
    r = tl.program_id(0)
    row = (r // H).to(tl.int64)
    D = K * F if ACT else 0
    N = D + F * V
    t = 0 * r
    while t < T:
        mark, length = tl.load(marks + row * T + t), length_from(marks + row * T, t, T, C)
        _, _, Z = sources(mark, t, first, weight, weight, anchor, states, r, H, N, CHUNK, SLOTS)
        begin = (row * T + t) * H + r % H
        keys, values, raw_at, wrong_at = (
            k + begin * K,
            v + begin * V,
            raw + begin * V,
            wrong + begin * V,
        )
        one = tl.full([C, 1], 1.0, tl.float32)
        seen, stride = keys, H * K
        if ACT:
            seen, stride = a + begin * F, H * F
            multiply(
                keys, H * K, Z, seen, stride, K, F, length, one, seen, stride, 0.0, False, False, C,
                BLOCK,
            )  # fmt: skip
            tl.debug_barrier()
        multiply(
            seen, stride, Z + D, raw_at, H * V, F, V, length, 2.0 * one, values, H * V, -1.0, ACT,
            True, C, BLOCK,
        )  # fmt: skip
        tl.debug_barrier()
        error = load_rows(raw_at, H * V, V, 0, length, C, BV)
        if HUBER:
            error = cut(error, reach_of(delta, begin, H, length, C))
        if LIMITED:
            error = cut(error, tl.zeros([C], tl.float32) + limit)
        put_rows(wrong_at, error, H * V, V, 0, length, C, BV)
        tl.debug_barrier()
        if ACT:
            lengths = hidden_errors(
                wrong_at, H * V, Z + D, seen, back + begin * F, stride, F, V, length, C, BLOCK
            )
            step = tl.arange(0, C)
            tl.store(square + begin + step * H, lengths, step < length)
        t += length


@triton.jit(do_not_specialize=["T", "J", "CHUNK", "SLOTS"])
@no_type_check
def read_backward_kernel(
    grad_y, q, k, past, effect, push, marks, first, weight, momentum, anchor, states, a, back,
    square, x, wrong, for_hidden, for_x, for_wrong, for_back, grad_q, grad_k, grad_past,
    grad_effect, limit, T, H, K, F, V, J, CHUNK, SLOTS, LAYERS: tl.constexpr, LIMITED: tl.constexpr,
    HUBER: tl.constexpr, C: tl.constexpr, BV: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The part of the gradients that comes from the answers alone, piece by piece.

    Keeps by token what `learn_backward_kernel` needs: the queries' inputs `x` of the hidden units,
    and the gradients of the hidden units' outputs, of x, of `wrong` and of the cut `back`.
    """
    ACT: tl.constexpr = LAYERS == 2
    r = tl.program_id(0)
    row = (r // H).to(tl.int64)
    D = K * F if ACT else 0
    N = D + F * V
    t = 0 * r
    while t < T:
        mark, length = tl.load(marks + row * T + t), length_from(marks + row * T, t, T, C)
        begins = (mark & BEGINS) != 0
        A, S, _ = sources(mark, t, first, weight, momentum, anchor, states, r, H, N, CHUNK, SLOTS)
        begin = (row * T + t) * H + r % H
        keep, carry, mix, _, _, _ = coefficients_at(past, effect, push, begin, H, J, length, C)
        queries, keys, grad = q + begin * K, k + begin * K, grad_y + begin * V
        for_queries, for_keys = grad_q + begin * K, grad_k + begin * K
        wrong_at = wrong + begin * V
        seen, asked, stride, for_seen, for_asked = keys, queries, H * K, for_keys, for_queries
        if ACT:
            seen, asked, stride = a + begin * F, x + begin * F, H * F
            for_seen, for_asked, back_at = (
                for_hidden + begin * F,
                for_x + begin * F,
                back + begin * F,
            )
            scale = tl.full([C, 1], 1.0, tl.float32)
            if LIMITED:
                bound = tl.zeros([C], tl.float32) + limit
                scale = factor(scalars(square, begin, H, 1, 0, length, C), bound)[:, None]
            close = gram(queries, H * K, keys, H * K, K, length, False, C, BLOCK)
            read(
                queries, H * K, back_at, stride, scale, close * mix, A, S, keep, carry, asked,
                stride, K, F, length, begins, False, C, BLOCK,
            )  # fmt: skip
            tl.debug_barrier()
        for_P = -gram(grad, H * V, wrong_at, H * V, V, length, False, C, BLOCK)
        P = gram(asked, stride, seen, stride, F, length, ACT, C, BLOCK)
        into_mix = for_P * P
        mixed_back(P * mix, grad, H * V, for_wrong + begin * V, H * V, V, length, C, BLOCK)
        into_keep, into_carry = read_back(
            asked, stride, seen, stride, grad, H * V, for_P * mix, A + D, S + D, keep, carry,
            for_asked, for_seen, F, V, length, begins, ACT, C, BLOCK,
        )  # fmt: skip
        tl.debug_barrier()
        if ACT:
            for_P = -gram(for_asked, stride, back_at, stride, F, length, False, C, BLOCK)
            for_P *= tl.trans(scale)
            into_mix += for_P * close
            mixed_back(
                close * mix, for_asked, stride, for_back + begin * F, stride, F, length, C, BLOCK
            )
            d_keep, d_carry = read_back(
                queries, H * K, keys, H * K, for_asked, stride, for_P * mix, A, S, keep, carry,
                for_queries, for_keys, K, F, length, begins, False, C, BLOCK,
            )  # fmt: skip
            into_keep, into_carry = into_keep + d_keep, into_carry + d_carry
        put_rows(grad_effect + begin * J, into_mix, H * J, J, 0, length, C, C)
        step = tl.arange(0, C)
        to_past = grad_past + begin * 3 + step * (H * 3)
        tl.store(to_past, into_keep, step < length)
        tl.store(to_past + 1, into_carry, step < length)
        t += length


@triton.jit(do_not_specialize=["T", "J", "CHUNK", "SLOTS"])
@no_type_check
def learn_backward_kernel(
    grad_y, q, k, v, delta, past, effect, push, marks, first, weight, momentum, anchor, states, a,
    back, square, x, raw, wrong, for_hidden, for_x, for_wrong, for_back, grad_k, grad_v, grad_delta,
    grad_ends, grad_in_A, grad_in_S, grad_first, grad_weight, grad_momentum, grad_anchor, limit, T,
    H, K, F, V, J, CHUNK, SLOTS, LAYERS: tl.constexpr, LIMITED: tl.constexpr, HUBER: tl.constexpr,
    C: tl.constexpr, BV: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The other gradients, from the last piece to the first one, after `read_backward_kernel`.

    `grad_weight`, `grad_momentum` and `grad_anchor` are the gradients of the row's results before
    it, and of its first state after it; `grad_ends`, `grad_in_A` and `grad_in_S` those of `past`,
    `effect` and `push` at the pieces' last tokens.
    """
    ACT: tl.constexpr = LAYERS == 2
    r = tl.program_id(0)
    row = (r // H).to(tl.int64)
    D = K * F if ACT else 0
    N = D + F * V
    own = r.to(tl.int64) * N
    for_A, for_S = grad_weight + own, grad_momentum + own
    for_Z, for_first = grad_anchor + own, grad_first + own
    end = T + 0 * r
    while end > 0:
        length = length_before(marks + row * T, end, C)
        t = end - length
        mark = tl.load(marks + row * T + t)
        begins, opens, is_last = (mark & BEGINS) != 0, (mark & OPENS) != 0, end == T
        A, S, Z = sources(mark, t, first, weight, momentum, anchor, states, r, H, N, CHUNK, SLOTS)
        begin = (row * T + t) * H + r % H
        mixed = coefficients_at(past, effect, push, begin, H, J, length, C)
        keep, carry, _, in_A, in_S, ends = mixed
        keys, grad, for_keys = k + begin * K, grad_y + begin * V, grad_k + begin * K
        wrong_at, for_error = wrong + begin * V, for_wrong + begin * V
        one, bound = tl.full([C, 1], 1.0, tl.float32), tl.zeros([C], tl.float32) + limit
        seen, asked, stride, for_seen, for_a = keys, q + begin * K, H * K, for_keys, for_keys
        if ACT:
            seen, asked, stride = a + begin * F, x + begin * F, H * F
            for_seen, for_a = for_hidden + begin * F, for_back + begin * F
        into_in_A, into_in_S = seen_back(
            seen, stride, wrong_at, H * V, one, for_A + D, for_S + D, in_A, in_S, for_seen, F, V,
            length, ACT, C, BLOCK,
        )  # fmt: skip
        wrong_back(
            seen, stride, for_A + D, for_S + D, in_A, in_S, for_error, H * V, F, V, length, ACT, C,
            BLOCK,
        )  # fmt: skip
        tl.debug_barrier()
        e_keep, e_carry, e_persist = state_back(
            asked, stride, grad, H * V, A + D, S + D, for_A + D, for_S + D, keep, carry, ends, F, V,
            length, begins, ACT, C, BLOCK,
        )  # fmt: skip
        if ACT:
            back_at, scale = back + begin * F, one
            lengths = scalars(square, begin, H, 1, 0, length, C)
            if LIMITED:
                scale = factor(lengths, bound)[:, None]
            d_in_A, d_in_S = seen_back(
                keys, H * K, back_at, stride, scale, for_A, for_S, in_A, in_S, for_keys, K, F,
                length, False, C, BLOCK,
            )  # fmt: skip
            wrong_back(
                keys, H * K, for_A, for_S, in_A, in_S, for_a, stride, K, F, length, False, C, BLOCK
            )
            tl.debug_barrier()
            e_0, e_1, e_2 = state_back(
                q + begin * K, H * K, for_x + begin * F, stride, A, S, for_A, for_S, keep, carry,
                ends, K, F, length, begins, False, C, BLOCK,
            )  # fmt: skip
            into_in_A, into_in_S = into_in_A + d_in_A, into_in_S + d_in_S
            e_keep, e_carry, e_persist = e_keep + e_0, e_carry + e_1, e_persist + e_2
            over = tl.zeros([C], tl.float32)
            if LIMITED:
                along = product_sums(back_at, for_a, stride, F, length, C, BLOCK)
                over = share(lengths, bound, along)
                tl.debug_barrier()
            hidden_back(
                wrong_at, H * V, Z + D, seen, back_at, for_a, stride, scale, over[:, None], F, V,
                length, C, BLOCK,
            )  # fmt: skip
            tl.debug_barrier()
            multiply(
                back_at, stride, Z + D, for_error, H * V, F, V, length, one, for_error, H * V, 1.0,
                False, True, C, BLOCK,
            )  # fmt: skip
        final, j = begin + (length - 1) * H, tl.arange(0, C)
        tl.store(grad_in_A + final * J + j, into_in_A, j < J)
        tl.store(grad_in_S + final * J + j, into_in_S, j < J)
        put_ends(grad_ends + final * 3, e_keep, e_carry, e_persist)
        tl.debug_barrier()
        into_error = load_rows(for_error, H * V, V, 0, length, C, BV)
        error = load_rows(raw + begin * V, H * V, V, 0, length, C, BV)
        if HUBER:
            reach = reach_of(delta, begin, H, length, C)
            if LIMITED:
                into_error, _ = cut_back(cut(error, reach), bound, into_error)
            into_error, into_reach = cut_back(error, reach, into_error)
            tl.store(grad_delta + begin + j * H, 2 * into_reach, j < length)
        elif LIMITED:
            into_error, _ = cut_back(error, bound, into_error)
        put_rows(grad_v + begin * V, -2 * into_error, H * V, V, 0, length, C, BV)
        tl.debug_barrier()
        put_rows(for_error, 2 * into_error, H * V, V, 0, length, C, BV)
        tl.debug_barrier()
        error_back(
            for_error, H * V, Z + D, seen, for_seen, for_a, stride, F, V, length, ACT, C, BLOCK
        )
        tl.debug_barrier()
        anchor_back(
            seen, stride, for_error, H * V, back + begin * F, wrong_at, H * V, for_Z + D, for_A + D,
            for_S + D, for_first + D, F, V, length, begins, opens, t == 0, is_last, ACT, ACT, C,
            BLOCK,
        )  # fmt: skip
        if ACT:
            key_back(for_a, stride, Z, for_keys, H * K, K, F, length, C, BLOCK)
            anchor_back(
                keys, H * K, for_a, stride, keys, keys, stride, for_Z, for_A, for_S, for_first, K,
                F, length, begins, opens, t == 0, is_last, False, False, C, BLOCK,
            )  # fmt: skip
        tl.debug_barrier()  # the piece before reads gradients that other threads have written
        end = t
