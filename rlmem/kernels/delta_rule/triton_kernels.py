"""Triton kernels of the delta rule; `triton_form.py` launches them.

One program computes all time steps of one head of one row and `VALUES` columns of its state, which
it keeps in registers, while the inputs of the next step are being loaded. A head's state is small
and an agent has many rows, so that the heads of all rows fill the device. With
e[t] = v[t] - S'^T k[t], the error that step t corrects, and G for the gradient of S[t]:

    G = G + q dO^T,   dv = beta G^T k,   d_beta = e (G^T k),   dk = beta G e - S' dv,   dq = S dO
    E = <G, S[t]> = E + o dO,   dg = E = E - v dv,   G = exp(g) (G - k dv^T)

`backward_kernel` computes these backward in time, except for the terms with S, which `read_kernel`
computes forward in time. Gradients that are sums over values are written as partial sums, one for
each block of columns.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from rlmem.kernels.delta_rule.triton_parts import gates, locate, vector


@triton.jit(do_not_specialize=["T"])
@no_type_check
def forward_kernel(
    q,
    k,
    v,
    beta,
    g,
    start,
    state,
    o,
    errors,
    last,
    T,
    heads,
    keys,
    values,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
):
    """Outputs, the corrected errors, and the last state."""
    row, first, _, i, j, cell, inside = locate(T, heads, keys, values, KEYS, VALUES)
    S = tl.load(state + cell, inside, 0.0)
    zero = row * 0
    key = vector(k, first, zero, T, heads, keys, i)
    query = vector(q, first, zero, T, heads, keys, i)
    value = vector(v, first, zero, T, heads, values, j)
    b, decay, flag = gates(beta, g, start, row, first, zero, T, heads)
    for step in range(0, T):
        t = zero + step
        key_ahead = vector(k, first, t + 1, T, heads, keys, i)
        query_ahead = vector(q, first, t + 1, T, heads, keys, i)
        value_ahead = vector(v, first, t + 1, T, heads, values, j)
        b_ahead, decay_ahead, flag_ahead = gates(beta, g, start, row, first, t + 1, T, heads)
        S = tl.where(flag, 0.0, S if g is None else decay * S)
        error = value - tl.sum(S * key[:, None], 0)
        S += key[:, None] * (b * error)[None, :]
        at = (first + t * heads) * values + j
        tl.store(errors + at, error, j < values)
        tl.store(o + at, tl.sum(S * query[:, None], 0), j < values)
        key, query, value = key_ahead, query_ahead, value_ahead
        b, decay, flag = b_ahead, decay_ahead, flag_ahead
    tl.store(last + cell, S, inside)


@triton.jit(do_not_specialize=["T"])
@no_type_check
def backward_kernel(
    grad_o,
    grad_last,
    q,
    k,
    v,
    beta,
    g,
    start,
    o,
    errors,
    last,
    dk,
    dv,
    d_beta,
    dg,
    d_state,
    T,
    heads,
    keys,
    values,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
):
    """Backward in time: gradients for v, beta, g and the first state, and one term of k's."""
    row, first, partial, i, j, cell, inside = locate(T, heads, keys, values, KEYS, VALUES)
    G = tl.load(grad_last + cell, inside, 0.0)
    energy = tl.sum(G * tl.load(last + cell, inside, 0.0))
    t = row * 0 + T - 1
    key = vector(k, first, t, T, heads, keys, i)
    query = vector(q, first, t, T, heads, keys, i)
    value = vector(v, first, t, T, heads, values, j)
    out = vector(o, first, t, T, heads, values, j)
    error = vector(errors, first, t, T, heads, values, j)
    grad = vector(grad_o, first, t, T, heads, values, j)
    b, decay, flag = gates(beta, g, start, row, first, t, T, heads)
    for _ in range(0, T):
        key_ahead = vector(k, first, t - 1, T, heads, keys, i)
        query_ahead = vector(q, first, t - 1, T, heads, keys, i)
        value_ahead = vector(v, first, t - 1, T, heads, values, j)
        out_ahead = vector(o, first, t - 1, T, heads, values, j)
        error_ahead = vector(errors, first, t - 1, T, heads, values, j)
        grad_ahead = vector(grad_o, first, t - 1, T, heads, values, j)
        b_ahead, decay_ahead, flag_ahead = gates(beta, g, start, row, first, t - 1, T, heads)
        G += query[:, None] * grad[None, :]
        for_u = tl.sum(G * key[:, None], 0)
        for_v = b * for_u
        tl.store(dv + (first + t * heads) * values + j, for_v, j < values)
        at = partial + t * heads
        for_key = tl.sum(G * (b * error)[None, :], 1)
        tl.store(dk + at * keys + i, for_key, i < keys)
        tl.store(d_beta + at, tl.sum(for_u * error))
        if g is not None:
            energy += tl.sum(grad * out - for_v * value)
            energy = tl.where(flag, 0.0, energy)
            tl.store(dg + at, energy)
        G -= key[:, None] * for_v[None, :]
        G = tl.where(flag, 0.0, G if g is None else decay * G)
        key, query, value, out = key_ahead, query_ahead, value_ahead, out_ahead
        error, grad = error_ahead, grad_ahead
        b, decay, flag = b_ahead, decay_ahead, flag_ahead
        t -= 1
    tl.store(d_state + cell, G, inside)


@triton.jit(do_not_specialize=["T"])
@no_type_check
def read_kernel(
    grad_o,
    k,
    beta,
    g,
    start,
    state,
    errors,
    dv,
    dq,
    dk,
    T,
    heads,
    keys,
    values,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
):
    """Forward in time: gradients for q, and the other term of k's."""
    row, first, partial, i, j, cell, inside = locate(T, heads, keys, values, KEYS, VALUES)
    S = tl.load(state + cell, inside, 0.0)
    zero = row * 0
    key = vector(k, first, zero, T, heads, keys, i)
    error = vector(errors, first, zero, T, heads, values, j)
    grad = vector(grad_o, first, zero, T, heads, values, j)
    for_v = vector(dv, first, zero, T, heads, values, j)
    b, decay, flag = gates(beta, g, start, row, first, zero, T, heads)
    for step in range(0, T):
        t = zero + step
        key_ahead = vector(k, first, t + 1, T, heads, keys, i)
        error_ahead = vector(errors, first, t + 1, T, heads, values, j)
        grad_ahead = vector(grad_o, first, t + 1, T, heads, values, j)
        for_v_ahead = vector(dv, first, t + 1, T, heads, values, j)
        b_ahead, decay_ahead, flag_ahead = gates(beta, g, start, row, first, t + 1, T, heads)
        S = tl.where(flag, 0.0, S if g is None else decay * S)
        at = (partial + t * heads) * keys + i
        tl.store(dk + at, -tl.sum(S * for_v[None, :], 1), i < keys)
        S += key[:, None] * (b * error)[None, :]
        tl.store(dq + at, tl.sum(S * grad[None, :], 1), i < keys)
        key, error, grad, for_v = key_ahead, error_ahead, grad_ahead, for_v_ahead
        b, decay, flag = b_ahead, decay_ahead, flag_ahead
