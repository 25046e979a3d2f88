"""Triton kernels of the diagonal linear recurrence; `triton_form.py` launches them.

One program computes `BLOCK` channels of one chunk of one row: `UNROLL` time steps at a time, while
the next `UNROLL` are being loaded. `step` counts in the order of computation, which is time or,
with `reverse`, reversed time. `size` is the number of reals in a time step: D, or 2 D for complex
numbers.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from rlmem.kernels.linear_scan.triton_parts import (
    add,
    conj,
    fetch,
    fetch_all,
    first_state,
    fma,
    locate,
    mul,
    ones,
    pack,
    select,
    track,
    unpack,
    within,
    zeros,
)


@triton.jit(do_not_specialize=["T", "chunk_steps", "chunks"])
@no_type_check
def forward_kernel(
    gate,
    value,
    h0,
    carry,
    start,
    h,
    T,
    size,
    chunk_steps,
    chunks,
    reverse,
    CONSTANT: tl.constexpr,
    COMPLEX: tl.constexpr,
    BLOCK: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """`h[t] = value[t] if start[t] else gate[t] * h[t-1] + value[t]`."""
    row, chunk, lanes = locate(size, chunks, COMPLEX, BLOCK)
    begin = chunk * chunk_steps
    end = tl.minimum(begin + chunk_steps, T)
    state = first_state(h0, carry, row, chunk, chunks, size, lanes, h, COMPLEX)

    if CONSTANT:
        a = unpack(tl.load(gate + lanes, lanes < size, 0), COMPLEX)
    values = track(value, row, T, size, reverse)
    gates = None if CONSTANT else track(gate, row, T, size, reverse)
    flags = None if start is None else track(start, row, T, 1, reverse)
    out, stride = track(h, row, T, size, reverse)

    group = fetch_all(gates, values, flags, lanes, size, begin, end, UNROLL)
    for step in range(begin, end, UNROLL):
        ahead = fetch_all(gates, values, flags, lanes, size, step + UNROLL, end, UNROLL)
        for i in tl.static_range(UNROLL):
            if not CONSTANT:
                a = unpack(group[1][i], COMPLEX)
            b = unpack(group[0][i], COMPLEX)
            state = fma(a, state, b, COMPLEX)
            if start is not None:
                state = select(group[2][i] != 0, b, state, COMPLEX)
            at = out + (step + i) * stride + lanes
            new = pack(state, COMPLEX).to(h.dtype.element_ty)
            tl.store(at, new, within(step + i < end, lanes, size))
        group = ahead


@triton.jit(do_not_specialize=["T", "chunk_steps", "chunks"])
@no_type_check
def backward_kernel(
    grad_h,
    gate,
    h,
    h0,
    carry,
    start,
    grad_gate,
    grad_value,
    grad_h0,
    T,
    size,
    chunk_steps,
    chunks,
    reverse,
    CONSTANT: tl.constexpr,
    COMPLEX: tl.constexpr,
    BLOCK: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """The adjoint, in the order opposite to the forward pass (`reverse` is negated).

    With `g` for the whole gradient of the state and `c` for its contribution from later steps:
    `g[t] = grad_h[t] + c[t]`, `c[t-1] = conj(gate[t]) * g[t]` or 0 if `start[t]`,
    `grad_value = g`, `grad_gate[t] = g[t] * conj(h[t-1])` or 0 if `start[t]`. A constant gate
    gets one partial sum [D] per row and chunk. A gradient that is None is not computed.
    """
    row, chunk, lanes = locate(size, chunks, COMPLEX, BLOCK)
    begin = chunk * chunk_steps
    end = tl.minimum(begin + chunk_steps, T)
    zero = zeros(lanes, grad_h, COMPLEX)
    state = first_state(None, carry, row, chunk, chunks, size, lanes, grad_h, COMPLEX)
    total = zero
    # The state before the first time step is `h0`; this loop reaches it last.
    edge = 0
    if h0 is not None:
        edge = tl.load(h0 + row * size + lanes, lanes < size, 0)

    if CONSTANT:
        a = conj(unpack(tl.load(gate + lanes, lanes < size, 0), COMPLEX), COMPLEX)
    grads = track(grad_h, row, T, size, reverse)
    gates = None if CONSTANT else track(gate, row, T, size, reverse)
    flags = None if start is None else track(start, row, T, 1, reverse)
    befores = None if grad_gate is None else track(h, row, T, size, reverse)
    to_gate = None if CONSTANT or grad_gate is None else track(grad_gate, row, T, size, reverse)
    to_value = None if grad_value is None else track(grad_value, row, T, size, reverse)
    # The state before a step is the one that this loop reaches a step later.
    last = tl.minimum(end + 1, T)

    group = fetch_all(gates, grads, flags, lanes, size, begin, end, UNROLL)
    before = fetch(befores, lanes, size, edge, begin + 1, last, UNROLL)
    for step in range(begin, end, UNROLL):
        later = step + UNROLL
        ahead = fetch_all(gates, grads, flags, lanes, size, later, end, UNROLL)
        before_ahead = fetch(befores, lanes, size, edge, later + 1, last, UNROLL)
        for i in tl.static_range(UNROLL):
            live = step + i < end
            there = within(live, lanes, size)
            at = (step + i) * grads[1] + lanes
            g = add(state, unpack(group[0][i], COMPLEX), COMPLEX)
            if grad_value is not None:
                tl.store(to_value[0] + at, pack(g, COMPLEX).to(grad_h.dtype.element_ty), there)
            if grad_gate is not None:
                slope = mul(g, conj(unpack(before[i], COMPLEX), COMPLEX), COMPLEX)
                if start is not None:
                    slope = select(group[2][i] != 0, zero, slope, COMPLEX)
                if CONSTANT:
                    total = select(live, add(total, slope, COMPLEX), total, COMPLEX)
                else:
                    slope = pack(slope, COMPLEX).to(grad_h.dtype.element_ty)
                    tl.store(to_gate[0] + at, slope, there)
            if not CONSTANT:
                a = conj(unpack(group[1][i], COMPLEX), COMPLEX)
            passed = mul(a, g, COMPLEX)
            if start is not None:
                passed = select(group[2][i] != 0, zero, passed, COMPLEX)
            state = select(live, passed, state, COMPLEX)
        group = ahead
        before = before_ahead

    if CONSTANT and grad_gate is not None:
        at = grad_gate + (row * chunks + chunk) * size + lanes
        tl.store(at, pack(total, COMPLEX), lanes < size)
    if grad_h0 is not None:
        at = grad_h0 + row * size + lanes
        there = within(chunk == chunks - 1, lanes, size)
        tl.store(at, pack(state, COMPLEX).to(grad_h.dtype.element_ty), there)


@triton.jit(do_not_specialize=["T", "chunk_steps", "chunks"])
@no_type_check
def summary_kernel(
    gate,
    value,
    start,
    product,
    last,
    cut,
    T,
    size,
    chunk_steps,
    chunks,
    reverse,
    CONSTANT: tl.constexpr,
    COMPLEX: tl.constexpr,
    ADJOINT: tl.constexpr,
    BLOCK: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """The effect of a whole chunk on the state: `state -> (0 if cut else product * state) + last`.

    `product` and `last` are [B, chunks, D]; `cut` [B, chunks] tells if a start lies in the chunk.
    With `ADJOINT` the state is the `c` of `backward_kernel` and `value` its `grad_h`. `chunk_steps`
    is a multiple of `UNROLL`; the row's last chunk, which may be shorter, needs no summary.
    """
    row, chunk, lanes = locate(size, chunks, COMPLEX, BLOCK)
    begin = chunk * chunk_steps
    end = begin + chunk_steps
    zero = zeros(lanes, product, COMPLEX)
    state = zero
    factor = ones(zero, COMPLEX)
    seen = 0

    if CONSTANT:
        a = unpack(tl.load(gate + lanes, lanes < size, 0), COMPLEX)
    values = track(value, row, T, size, reverse)
    gates = None if CONSTANT else track(gate, row, T, size, reverse)
    flags = None if start is None else track(start, row, T, 1, reverse)

    group = fetch_all(gates, values, flags, lanes, size, begin, end, UNROLL)
    for step in range(begin, end, UNROLL):
        ahead = fetch_all(gates, values, flags, lanes, size, step + UNROLL, end, UNROLL)
        for i in tl.static_range(UNROLL):
            if not CONSTANT:
                a = unpack(group[1][i], COMPLEX)
            b = unpack(group[0][i], COMPLEX)
            factor = mul(a, factor, COMPLEX)
            if ADJOINT:
                state = mul(conj(a, COMPLEX), add(state, b, COMPLEX), COMPLEX)
            else:
                state = fma(a, state, b, COMPLEX)
            if start is not None:
                state = select(group[2][i] != 0, zero if ADJOINT else b, state, COMPLEX)
                seen |= group[2][i].to(tl.int32)
        group = ahead

    if ADJOINT:
        factor = conj(factor, COMPLEX)
    place = (row * chunks + chunk) * size + lanes
    tl.store(product + place, pack(factor, COMPLEX), lanes < size)
    tl.store(last + place, pack(state, COMPLEX), lanes < size)
    if start is not None:
        # All programs of this chunk write the same value.
        tl.store(cut + row * chunks + chunk, seen.to(tl.uint8))
