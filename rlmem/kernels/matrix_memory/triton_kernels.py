"""Triton kernels of the matrix memory; `triton_form.py` launches them.

Names are those of `gates.py` and `torch_form.py`: in a chunk of C steps of one row and head, the
weight of step s at step t is exp(b[t] + a[s]). Gates are [N, R, C] and decays [N, R], with R = B H;
q, k [B, T, H, K]; v [B, T, H, V]; states [B, N, H, K, V'], where V' is V + 1 with a normaliser, for
a last column n. Products accumulate in float32; those of float32 are three TF32 products each.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from rlmem.kernels.matrix_memory.triton_parts import (
    dot,
    load,
    load_gate,
    load_state,
    store,
    store_gate,
    store_state,
    weights,
    write_weights,
)


@triton.jit(do_not_specialize=["T", "N"])
@no_type_check
def state_kernel(
    k,
    v,
    a,
    b,
    query,
    key,
    decay,
    episode,
    state,
    states,
    last,
    T,
    N,
    R,
    H,
    K,
    V,
    NORM: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
):
    """The state before every chunk and after the last one; one program per tile of the state."""
    r, ks, vs = tl.program_id(0), tl.program_id(1) * BK, tl.program_id(2) * BV
    width = V + 1 if NORM else V
    S = tl.zeros([BK, BV], tl.float32)
    n = tl.zeros([BK], tl.float32)
    if state is not None:
        S, n = load_state(state, r, ks, vs, K, V, width, NORM, BK, BV)
    for c in range(0, N):
        at = ((r // H) * N + c) * H + r % H
        store_state(states, S, n, at, ks, vs, K, V, width, NORM, BK, BV)
        g = c * R + r
        w = write_weights(a, b, query, key, episode, c, g, r, T, R, H, C)
        keys = load(k, r, c, ks, T, H, K, C, BK) * w[:, None]
        fade = tl.load(decay + g)
        S = S * fade + dot(tl.trans(keys), load(v, r, c, vs, T, H, V, C, BV), k)
        if NORM:
            n = n * fade + tl.sum(keys, 0)
    store_state(last, S, n, r, ks, vs, K, V, width, NORM, BK, BV)


@triton.jit(do_not_specialize=["T", "N"])
@no_type_check
def read_kernel(
    q,
    k,
    v,
    a,
    b,
    query,
    key,
    first,
    episode,
    states,
    m,
    h,
    norm,
    eps,
    T,
    N,
    R,
    H,
    K,
    V,
    NORM: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
):
    """h, and q.n with a normaliser (NORM 1: max, 2: sum); one program per chunk and tile."""
    c, r, vs = tl.program_id(0), tl.program_id(1), tl.program_id(2) * BV
    g, at = c * R + r, ((r // H) * N + c) * H + r % H
    width = V + 1 if NORM else V
    score = tl.zeros([C, C], tl.float32)
    u = tl.zeros([C, BV], tl.float32)
    total = tl.zeros([C], tl.float32)
    enter = tl.load(first + g * C + tl.arange(0, C))
    rest_q = tl.load(query + g * C + tl.arange(0, C))
    rest_k = tl.load(key + g * C + tl.arange(0, C))
    for ks in range(0, K, BK):
        queries = load(q, r, c, ks, T, H, K, C, BK) * rest_q[:, None]
        keys = load(k, r, c, ks, T, H, K, C, BK) * rest_k[:, None]
        score += dot(queries, tl.trans(keys), q)
        S, n = load_state(states, at, ks, vs, K, V, width, NORM, BK, BV)
        queries = queries * enter[:, None]
        u += dot(queries, S, q)
        if NORM:
            total += tl.sum(queries * n[None, :], 1)
    p = score * weights(a, b, episode, c, g, r, T, R, H, C)
    u += dot(p, load(v, r, c, vs, T, H, V, C, BV), q)
    floor = tl.full([C], 1.0, tl.float32)
    if m is not None:
        floor = tl.exp(-load_gate(m, r, c, T, H, C))
    if NORM:
        total += tl.sum(p, 1)
        store_gate(norm, total, vs < 1, r, c, T, H, C)
        below = total if NORM == 2 else tl.maximum(tl.abs(total), floor)
        u = u / (below + eps)[:, None]
    elif m is not None:
        u = u / floor[:, None]
    store(h, u, r, c, vs, T, H, V, C, BV)


@triton.jit(do_not_specialize=["T", "N"])
@no_type_check
def state_backward_kernel(
    grad_h,
    scale,
    grad_norm,
    q,
    query,
    first,
    decay,
    grad_last,
    grad_states,
    grad_state,
    T,
    N,
    R,
    H,
    K,
    V,
    NORM: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
):
    """The gradient for the states after the chunks and for the first one; from the last chunk."""
    r, ks, vs = tl.program_id(0), tl.program_id(1) * BK, tl.program_id(2) * BV
    width = V + 1 if NORM else V
    S = tl.zeros([BK, BV], tl.float32)
    n = tl.zeros([BK], tl.float32)
    if grad_last is not None:
        S, n = load_state(grad_last, r, ks, vs, K, V, width, NORM, BK, BV)
    for back in range(0, N):
        c = N - 1 - back
        at = ((r // H) * N + c) * H + r % H
        store_state(grad_states, S, n, at, ks, vs, K, V, width, NORM, BK, BV)
        g = c * R + r
        enter = tl.load(first + g * C + tl.arange(0, C))
        enter = enter * tl.load(query + g * C + tl.arange(0, C))
        queries = load(q, r, c, ks, T, H, K, C, BK) * enter[:, None]
        grad = load(grad_h, r, c, vs, T, H, V, C, BV)
        if scale is not None:
            grad = grad * load_gate(scale, r, c, T, H, C)[:, None]
        fade = tl.load(decay + g)
        S = S * fade + dot(tl.trans(queries), grad, q)
        if NORM:
            into = load_gate(grad_norm, r, c, T, H, C)
            n = n * fade + tl.sum(queries * into[:, None], 0)
    store_state(grad_state, S, n, r, ks, vs, K, V, width, NORM, BK, BV)


@triton.jit(do_not_specialize=["T", "N"])
@no_type_check
def value_backward_kernel(
    grad_h,
    scale,
    q,
    k,
    a,
    b,
    query,
    key,
    episode,
    grad_states,
    grad_v,
    T,
    N,
    R,
    H,
    K,
    V,
    NORM: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
):
    """The gradient for v; one program per chunk and tile."""
    c, r, vs = tl.program_id(0), tl.program_id(1), tl.program_id(2) * BV
    g, at = c * R + r, ((r // H) * N + c) * H + r % H
    width = V + 1 if NORM else V
    rest_q = tl.load(query + g * C + tl.arange(0, C))
    rest_k = tl.load(key + g * C + tl.arange(0, C))
    write = write_weights(a, b, query, key, episode, c, g, r, T, R, H, C)
    score = tl.zeros([C, C], tl.float32)
    into = tl.zeros([C, BV], tl.float32)
    for ks in range(0, K, BK):
        queries = load(q, r, c, ks, T, H, K, C, BK) * rest_q[:, None]
        keys = load(k, r, c, ks, T, H, K, C, BK)
        score += dot(queries, tl.trans(keys * rest_k[:, None]), q)
        S, _ = load_state(grad_states, at, ks, vs, K, V, width, False, BK, BV)
        into += dot(keys * write[:, None], S, q)
    p = score * weights(a, b, episode, c, g, r, T, R, H, C)
    grad = load(grad_h, r, c, vs, T, H, V, C, BV)
    if scale is not None:
        grad = grad * load_gate(scale, r, c, T, H, C)[:, None]
    into += dot(tl.trans(p), grad, q)
    store(grad_v, into, r, c, vs, T, H, V, C, BV)


@triton.jit(do_not_specialize=["T", "N"])
@no_type_check
def key_backward_kernel(
    grad_h,
    scale,
    grad_norm,
    q,
    k,
    v,
    a,
    b,
    query,
    key,
    first,
    episode,
    states,
    grad_states,
    grad_q,
    grad_k,
    grad_a,
    T,
    N,
    R,
    H,
    K,
    V,
    NORM: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
):
    """Gradients for q, k and, one partial sum per tile of k, a; one program per chunk and tile."""
    c, r, ks = tl.program_id(0), tl.program_id(1), tl.program_id(2) * BK
    g, at = c * R + r, ((r // H) * N + c) * H + r % H
    width = V + 1 if NORM else V
    score = tl.zeros([C, C], tl.float32)
    into_q = tl.zeros([C, BK], tl.float32)
    into_k = tl.zeros([C, BK], tl.float32)
    n = tl.zeros([BK], tl.float32)
    grad_n = tl.zeros([BK], tl.float32)
    for vs in range(0, V, BV):
        grad = load(grad_h, r, c, vs, T, H, V, C, BV)
        if scale is not None:
            grad = grad * load_gate(scale, r, c, T, H, C)[:, None]
        values = load(v, r, c, vs, T, H, V, C, BV)
        score += dot(grad, tl.trans(values), q)
        S, n = load_state(states, at, ks, vs, K, V, width, NORM, BK, BV)
        into_q += dot(grad, tl.trans(S), q)
        S, grad_n = load_state(grad_states, at, ks, vs, K, V, width, NORM, BK, BV)
        into_k += dot(values, tl.trans(S), q)
    if NORM:
        into = load_gate(grad_norm, r, c, T, H, C)
        score += into[:, None]
        into_q += into[:, None] * n[None, :]
        into_k += grad_n[None, :]
    score = score * weights(a, b, episode, c, g, r, T, R, H, C)
    rest_q = tl.load(query + g * C + tl.arange(0, C))
    rest_k = tl.load(key + g * C + tl.arange(0, C))
    into_q = into_q * (rest_q * tl.load(first + g * C + tl.arange(0, C)))[:, None]
    keys = load(k, r, c, ks, T, H, K, C, BK)
    into_q += dot(score, keys * rest_k[:, None], q) * rest_q[:, None]
    store(grad_q, into_q, r, c, ks, T, H, K, C, BK)
    queries = load(q, r, c, ks, T, H, K, C, BK) * rest_q[:, None]
    write = write_weights(a, b, query, key, episode, c, g, r, T, R, H, C)
    into_k = into_k * write[:, None] + dot(tl.trans(score), queries, q) * rest_k[:, None]
    store(grad_k, into_k, r, c, ks, T, H, K, C, BK)
    partial = tl.program_id(2).to(tl.int64) * (R // H) * T * H
    store_gate(grad_a + partial, tl.sum(into_k * keys, 1), 1, r, c, T, H, C)
