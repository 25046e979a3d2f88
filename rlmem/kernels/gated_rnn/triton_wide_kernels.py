"""Triton kernels for heads of more units than a program can hold; `triton_form.py` launches them.

A program computes BM rows of one head for the steps [first_step, last_step), in tiles of DP units:
tile z, and every num_programs(2)-th after it. Nothing stays on chip between steps. The state before
a step is read from memory; all but h is in `last`, its gradient in `grad_state`. If programs share
out the tiles, each step is a launch of its own, since no program may begin a step before all have
ended the one before it.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from rlmem.kernels.gated_rnn.triton_parts import (
    adjoint_products,
    fetch,
    gate_products,
    gru,
    gru_back,
    lstm,
    lstm_back,
    put,
    slstm,
    slstm_back,
)


@triton.jit(do_not_specialize=["B", "T", "first_step", "last_step"])
@no_type_check
def wide_forward_kernel(
    projected,
    weight,
    bias,
    state,
    start,
    h,
    last,
    activations,
    saved_states,
    B,
    T,
    H,
    D,
    first_step,
    last_step,
    CELL: tl.constexpr,
    SAVE: tl.constexpr,
    BM: tl.constexpr,
    DP: tl.constexpr,
):
    """Same as `forward_kernel`, for any number of units."""
    G: tl.constexpr = 3 if CELL == 0 else 4
    S: tl.constexpr = 1 if CELL == 0 else 2 if CELL == 1 else 4
    head = tl.program_id(1)
    row = (tl.program_id(0) * BM + tl.arange(0, BM)).to(tl.int64)
    for t in range(first_step, last_step):
        at = (row * T + t) * H + head
        found = row < B
        if start is not None:
            found &= tl.load(start + row * T + t, row < B, 0) == 0
        past = tl.where(t > 0, h + (at - H) * D, state + (row * S * H + head) * D)
        for tile in range(tl.program_id(2), tl.cdiv(D, DP), tl.num_programs(2)):
            unit = tile * DP + tl.arange(0, DP)
            inside = (row < B)[:, None] & (unit < D)[None, :]
            kept = found[:, None] & (unit < D)[None, :]
            first = ((row * S * H + head) * D)[:, None] + unit[None, :]
            b = bias + head * 4 * D + unit
            b_0, b_1 = tl.load(b, unit < D, 0.0)[None, :], tl.load(b + D, unit < D, 0.0)[None, :]
            b_2 = tl.load(b + 2 * D, unit < D, 0.0)[None, :]
            b_3 = tl.load(b + 3 * D, unit < D, 0.0)[None, :]
            x = projected + (at * G * D)[:, None] + unit[None, :]
            u_0, u_1, u_2, u_3 = gate_products(
                past, found, weight + head * D * G * D, unit, D, G, BM, DP
            )
            x_0, x_1 = fetch(x, D, inside, 0) + b_0 + u_0, fetch(x, D, inside, 1) + b_1 + u_1
            x_2 = fetch(x, D, inside, 2)
            before = tl.where(t > 0, last + first, state + first)
            if CELL == 0:
                now = tl.load(past[:, None] + unit[None, :], kept, 0.0)
                now, p_0, p_1, p_2, p_3 = gru(x_0, x_1, x_2, u_2, b_2, b_3, now)
            else:
                x_2 += b_2 + u_2
                x_3 = fetch(x, D, inside, 3) + b_3 + u_3
                c = tl.load(before + H * D, kept, 0.0)
            if CELL == 1:
                now, c, p_0, p_1, p_2, p_3 = lstm(x_0, x_1, x_2, x_3, c)
            if CELL >= 2:
                n = tl.load(before + 2 * H * D, kept, 0.0)
                m = tl.load(before + 3 * H * D, kept, 0.0)
                now, c, n, m, p_0, p_1, p_2, p_3 = slstm(x_0, x_1, x_2, x_3, c, n, m, CELL == 3)
            # All threads have read the state before it is overwritten.
            tl.debug_barrier()
            tl.store(h + (at * D)[:, None] + unit[None, :], now, inside)
            tl.store(last + first, now, inside & (unit < tl.where(t == T - 1, D, 0))[None, :])
            if S > 1:
                tl.store(last + first + H * D, c, inside)
            if S > 2:
                tl.store(last + first + 2 * H * D, n, inside)
                tl.store(last + first + 3 * H * D, m, inside)
            if SAVE:
                four = activations + (at * 4 * D)[:, None] + unit[None, :]
                put(four, D, inside, p_0, p_1, p_2, p_3)
                saved = saved_states + (at * (S - 1) * D)[:, None] + unit[None, :]
                if S > 1:
                    tl.store(saved, c, inside)
                if S > 2:
                    tl.store(saved + D, n, inside)
                    tl.store(saved + 2 * D, m, inside)
        # The next step reads all of h.
        tl.debug_barrier()


@triton.jit(do_not_specialize=["B", "T", "first_step", "last_step"])
@no_type_check
def wide_backward_kernel(
    grad_h,
    grad_last,
    weight,
    state,
    start,
    h,
    activations,
    saved_states,
    grad_projected,
    grad_h_n,
    grad_state,
    B,
    T,
    H,
    D,
    first_step,
    last_step,
    CELL: tl.constexpr,
    BM: tl.constexpr,
    DP: tl.constexpr,
):
    """Same as `backward_kernel`, for any number of units, in T + 1 steps.

    A step begins with the path from the gates of the step before it, which is later in time, to the
    state; the last step is this path alone.
    """
    G: tl.constexpr = 3 if CELL == 0 else 4
    S: tl.constexpr = 1 if CELL == 0 else 2 if CELL == 1 else 4
    head = tl.program_id(1)
    row = (tl.program_id(0) * BM + tl.arange(0, BM)).to(tl.int64)
    for step in range(first_step, last_step):
        t = T - 1 - step
        at = (row * T + t) * H + head
        # Rows whose gradient reaches this step from the later one; rows that read the earlier one.
        passed, found = row < B, row < B
        if start is not None:
            passed &= tl.load(start + row * T + t + 1, row < tl.where(step > 0, B, 0), 0) == 0
            found &= tl.load(start + row * T + t, row < tl.where(t >= 0, B, 0), 0) == 0
        later = grad_projected + (at + H) * G * D
        later_last = later + (G - 1) * D
        if CELL == 0:
            later_last = grad_h_n + (at + H) * D
        for tile in range(tl.program_id(2), tl.cdiv(D, DP), tl.num_programs(2)):
            unit = tile * DP + tl.arange(0, DP)
            inside = (row < B)[:, None] & (unit < D)[None, :]
            kept = found[:, None] & (unit < D)[None, :]
            first = ((row * S * H + head) * D)[:, None] + unit[None, :]
            carry = adjoint_products(
                later, later_last, passed, weight + head * D * G * D, unit, D,
                tl.where(step > 0, D, 0), G, BM, DP,
            )  # fmt: skip
            came = passed[:, None] & (unit < D)[None, :]
            source = grad_state + first
            if grad_last is not None:
                source = tl.where(step > 0, source, grad_last + first)
            else:
                came &= (unit < tl.where(step > 0, D, 0))[None, :]
            direct = came
            if CELL > 0:  # without a path from h to the next h but that through the gates
                direct &= (unit < tl.where(step > 0, 0, D))[None, :]
            carry += tl.load(source, direct, 0.0)
            if S > 1:
                for_c = tl.load(source + H * D, came, 0.0)
            if S > 2:
                for_n = tl.load(source + 2 * H * D, came, 0.0)
                for_m = tl.load(source + 3 * H * D, came, 0.0)
            # All threads have read the gradient before it is overwritten.
            tl.debug_barrier()
            if t >= 0:
                here = (at * D)[:, None] + unit[None, :]
                p = activations + (at * 4 * D)[:, None] + unit[None, :]
                p_0, p_1 = fetch(p, D, inside, 0), fetch(p, D, inside, 1)
                p_2, p_3 = fetch(p, D, inside, 2), fetch(p, D, inside, 3)
                if grad_h is not None:
                    carry += tl.load(grad_h + here, inside, 0.0)
                out = grad_projected + (at * G * D)[:, None] + unit[None, :]
                if CELL == 0:
                    before = tl.where(t > 0, h + here - H * D, state + first)
                    before = tl.load(before, kept, 0.0)
                    d_0, d_1, d_2, for_h_n, carry = gru_back(p_0, p_1, p_2, p_3, before, carry)
                    tl.store(out, d_0, inside)
                    tl.store(out + D, d_1, inside)
                    tl.store(out + 2 * D, d_2, inside)
                    tl.store(grad_h_n + here, for_h_n, inside)
                else:
                    left = saved_states + (at * (S - 1) * D)[:, None] + unit[None, :]
                    past = tl.where(t > 0, left - H * (S - 1) * D, state + first + H * D)
                    hop = tl.where(t > 0, D, H * D)
                    c, c_after = tl.load(past, kept, 0.0), tl.load(left, inside, 0.0)
                if CELL == 1:
                    d_0, d_1, d_2, d_3, for_c = lstm_back(
                        p_0, p_1, p_2, p_3, c, c_after, carry, for_c
                    )
                if CELL >= 2:
                    n, m = tl.load(past + hop, kept, 0.0), tl.load(past + 2 * hop, kept, 0.0)
                    n_after = tl.load(left + D, inside, 1.0)
                    m_after = tl.load(left + 2 * D, inside, 0.0)
                    d_0, d_1, d_2, d_3, for_c, for_n, for_m = slstm_back(
                        p_0, p_1, p_2, p_3, c, n, m, c_after, n_after, m_after, carry, for_c,
                        for_n, for_m, CELL == 3,
                    )  # fmt: skip
                if CELL > 0:
                    put(out, D, inside, d_0, d_1, d_2, d_3)
            tl.store(grad_state + first, carry, inside)
            if S > 1:
                tl.store(grad_state + first + H * D, for_c, inside)
            if S > 2:
                tl.store(grad_state + first + 2 * H * D, for_n, inside)
                tl.store(grad_state + first + 3 * H * D, for_m, inside)
        # The next step reads the gradients of all gates.
        tl.debug_barrier()
