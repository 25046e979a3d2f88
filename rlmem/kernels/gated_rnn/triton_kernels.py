"""Triton kernels of the gated recurrent networks; `triton_form.py` launches them.

One program computes all time steps of BM rows of one head, with the state and, if they fit, the
head's matrices on chip (as in FlashRNN, Poeppel et al. 2024, arXiv 2412.07752). CELL is the index
in `cells.CELLS`. Matrices that do not fit are read at every step from the second-level cache, and
so are their left factors, which the threads of the program have just written.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from rlmem.kernels.gated_rnn.triton_parts import (
    fetch,
    gru,
    gru_back,
    lstm,
    lstm_back,
    product,
    put,
    slstm,
    slstm_back,
)
from rlmem.kernels.gated_rnn.triton_wide_kernels import (
    wide_backward_kernel,
    wide_forward_kernel,
)

__all__ = ["backward_kernel", "forward_kernel", "wide_backward_kernel", "wide_forward_kernel"]


@triton.jit(do_not_specialize=["B", "T"])
@no_type_check
def forward_kernel(
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
    CELL: tl.constexpr,
    ON_CHIP: tl.constexpr,
    SAVE: tl.constexpr,
    BM: tl.constexpr,
    DP: tl.constexpr,
):
    """All steps of `gated_rnn`; activations and states are saved with SAVE. Contiguous.

    float32, or `projected` and `weight` in bfloat16: then products are of bfloat16.
    """
    G: tl.constexpr = 3 if CELL == 0 else 4
    S: tl.constexpr = 1 if CELL == 0 else 2 if CELL == 1 else 4
    head = tl.program_id(1)
    row = (tl.program_id(0) * BM + tl.arange(0, BM)).to(tl.int64)
    unit = tl.arange(0, DP)
    inside = (row < B)[:, None] & (unit < D)[None, :]
    first = ((row * S * H + head) * D)[:, None] + unit[None, :]

    w_0 = weight + head * D * G * D
    w_1, w_2, w_3 = w_0 + D, w_0 + 2 * D, w_0 + (G - 1) * D
    if ON_CHIP:
        square = (unit < D)[:, None] & (unit < D)[None, :]
        at_w = unit[:, None] * G * D + unit[None, :]
        w_0, w_1 = tl.load(w_0 + at_w, square, 0.0), tl.load(w_1 + at_w, square, 0.0)
        w_2, w_3 = tl.load(w_2 + at_w, square, 0.0), tl.load(w_3 + at_w, square, 0.0)
    b = bias + head * 4 * D + unit
    b_0, b_1 = tl.load(b, unit < D, 0.0)[None, :], tl.load(b + D, unit < D, 0.0)[None, :]
    b_2 = tl.load(b + 2 * D, unit < D, 0.0)[None, :]
    b_3 = tl.load(b + 3 * D, unit < D, 0.0)[None, :]

    now = tl.load(state + first, inside, 0.0)
    if S > 1:
        c = tl.load(state + first + H * D, inside, 0.0)
    if S > 2:
        n = tl.load(state + first + 2 * H * D, inside, 0.0)
        m = tl.load(state + first + 3 * H * D, inside, 0.0)
    for t in range(T):
        at = (row * T + t) * H + head
        x = projected + (at * G * D)[:, None] + unit[None, :]
        x_0, x_1 = fetch(x, D, inside, 0) + b_0, fetch(x, D, inside, 1) + b_1
        x_2 = fetch(x, D, inside, 2)
        found = row < B
        if start is not None:
            begun = (tl.load(start + row * T + t, row < B, 0) != 0)[:, None]
            found &= tl.load(start + row * T + t, row < B, 0) == 0
            now = tl.where(begun, 0.0, now)
            if S > 1:
                c = tl.where(begun, 0.0, c)
            if S > 2:
                n, m = tl.where(begun, 0.0, n), tl.where(begun, 0.0, m)
        past = tl.where(t > 0, h + (at - H) * D, state + (row * S * H + head) * D)
        x_0 += product(now, past, found, w_0, G * D, 1, unit, D, ON_CHIP)
        x_1 += product(now, past, found, w_1, G * D, 1, unit, D, ON_CHIP)
        u = product(now, past, found, w_2, G * D, 1, unit, D, ON_CHIP)
        if CELL == 0:
            now, p_0, p_1, p_2, p_3 = gru(x_0, x_1, x_2, u, b_2, b_3, now)
        else:
            x_2 += u + b_2
            x_3 = fetch(x, D, inside, 3) + b_3
            x_3 += product(now, past, found, w_3, G * D, 1, unit, D, ON_CHIP)
        if CELL == 1:
            now, c, p_0, p_1, p_2, p_3 = lstm(x_0, x_1, x_2, x_3, c)
        if CELL >= 2:
            now, c, n, m, p_0, p_1, p_2, p_3 = slstm(x_0, x_1, x_2, x_3, c, n, m, CELL == 3)
        out = (at * D)[:, None] + unit[None, :]
        tl.store(h + out, now, inside)
        if not ON_CHIP:
            tl.debug_barrier()
        if SAVE:
            put(activations + (at * 4 * D)[:, None] + unit[None, :], D, inside, p_0, p_1, p_2, p_3)
            saved = saved_states + (at * (S - 1) * D)[:, None] + unit[None, :]
            if S > 1:
                tl.store(saved, c, inside)
            if S > 2:
                tl.store(saved + D, n, inside)
                tl.store(saved + 2 * D, m, inside)

    tl.store(last + first, now, inside)
    if S > 1:
        tl.store(last + first + H * D, c, inside)
    if S > 2:
        tl.store(last + first + 2 * H * D, n, inside)
        tl.store(last + first + 3 * H * D, m, inside)


@triton.jit(do_not_specialize=["B", "T"])
@no_type_check
def backward_kernel(
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
    CELL: tl.constexpr,
    ON_CHIP: tl.constexpr,
    BM: tl.constexpr,
    DP: tl.constexpr,
):
    """The adjoint, from the last step to the first. `grad_h_n` [B, T, H, D] is for the GRU only."""
    G: tl.constexpr = 3 if CELL == 0 else 4
    S: tl.constexpr = 1 if CELL == 0 else 2 if CELL == 1 else 4
    head = tl.program_id(1)
    row = (tl.program_id(0) * BM + tl.arange(0, BM)).to(tl.int64)
    unit = tl.arange(0, DP)
    inside = (row < B)[:, None] & (unit < D)[None, :]
    first = ((row * S * H + head) * D)[:, None] + unit[None, :]

    w_0 = weight + head * D * G * D
    w_1, w_2, w_3 = w_0 + D, w_0 + 2 * D, w_0 + (G - 1) * D
    if ON_CHIP:
        # Transposed: rows are the gate's units.
        square = (unit < D)[:, None] & (unit < D)[None, :]
        at_w = unit[None, :] * G * D + unit[:, None]
        w_0, w_1 = tl.load(w_0 + at_w, square, 0.0), tl.load(w_1 + at_w, square, 0.0)
        w_2, w_3 = tl.load(w_2 + at_w, square, 0.0), tl.load(w_3 + at_w, square, 0.0)

    carry = tl.zeros((BM, DP), tl.float32)
    for_c = tl.zeros((BM, DP), tl.float32)
    for_n = tl.zeros((BM, DP), tl.float32)
    for_m = tl.zeros((BM, DP), tl.float32)
    if grad_last is not None:
        carry = tl.load(grad_last + first, inside, 0.0)
        if S > 1:
            for_c = tl.load(grad_last + first + H * D, inside, 0.0)
        if S > 2:
            for_n = tl.load(grad_last + first + 2 * H * D, inside, 0.0)
            for_m = tl.load(grad_last + first + 3 * H * D, inside, 0.0)
    for step in range(T):
        t = T - 1 - step
        at = (row * T + t) * H + head
        here = (at * D)[:, None] + unit[None, :]
        p = activations + (at * 4 * D)[:, None] + unit[None, :]
        p_0, p_1 = fetch(p, D, inside, 0), fetch(p, D, inside, 1)
        p_2, p_3 = fetch(p, D, inside, 2), fetch(p, D, inside, 3)
        found = inside
        if start is not None:
            begun = (tl.load(start + row * T + t, row < B, 0) != 0)[:, None]
            found &= ~begun
        if grad_h is not None:
            carry += tl.load(grad_h + here, inside, 0.0)
        out = grad_projected + (at * G * D)[:, None] + unit[None, :]
        if CELL == 0:
            # The state before the step: the first state, or the result of the step before.
            before = tl.where(t > 0, h + here - H * D, state + first)
            before = tl.load(before, found, 0.0)
            d_0, d_1, d_2, for_h_n, carry = gru_back(p_0, p_1, p_2, p_3, before, carry)
            tl.store(out, d_0, inside)
            tl.store(out + D, d_1, inside)
            tl.store(out + 2 * D, d_2, inside)
            tl.store(grad_h_n + here, for_h_n, inside)
            d_2 = for_h_n
        else:
            left = saved_states + (at * (S - 1) * D)[:, None] + unit[None, :]
            past = tl.where(t > 0, left - H * (S - 1) * D, state + first + H * D)
            hop = tl.where(t > 0, D, H * D)
            c, c_after = tl.load(past, found, 0.0), tl.load(left, inside, 0.0)
        if CELL == 1:
            d_0, d_1, d_2, d_3, for_c = lstm_back(p_0, p_1, p_2, p_3, c, c_after, carry, for_c)
        if CELL >= 2:
            n, m = tl.load(past + hop, found, 0.0), tl.load(past + 2 * hop, found, 0.0)
            n_after = tl.load(left + D, inside, 1.0)
            m_after = tl.load(left + 2 * D, inside, 0.0)
            d_0, d_1, d_2, d_3, for_c, for_n, for_m = slstm_back(
                p_0, p_1, p_2, p_3, c, n, m, c_after, n_after, m_after, carry, for_c, for_n,
                for_m, CELL == 3,
            )  # fmt: skip
        if CELL > 0:
            put(out, D, inside, d_0, d_1, d_2, d_3)
        if not ON_CHIP:
            tl.debug_barrier()
        d = grad_projected + at * G * D
        last_d = d + 2 * D
        if CELL == 0:
            last_d = grad_h_n + at * D
        else:
            carry = product(d_3, d + 3 * D, row < B, w_3, 1, G * D, unit, D, ON_CHIP)
        carry += product(d_0, d, row < B, w_0, 1, G * D, unit, D, ON_CHIP)
        carry += product(d_1, d + D, row < B, w_1, 1, G * D, unit, D, ON_CHIP)
        carry += product(d_2, last_d, row < B, w_2, 1, G * D, unit, D, ON_CHIP)
        if start is not None:
            carry = tl.where(begun, 0.0, carry)
            for_c = tl.where(begun, 0.0, for_c)
            for_n, for_m = tl.where(begun, 0.0, for_n), tl.where(begun, 0.0, for_m)

    tl.store(grad_state + first, carry, inside)
    if S > 1:
        tl.store(grad_state + first + H * D, for_c, inside)
    if S > 2:
        tl.store(grad_state + first + 2 * H * D, for_n, inside)
        tl.store(grad_state + first + 3 * H * D, for_m, inside)
