"""Stages of the work on a piece: small products of matrices from memory to memory.

A layer has matrices [R, W]: the queries' inputs x and the keys' inputs `seen` are [C, R], the
errors at its output `wrong` [C, W]. It is read as `keep x A + carry x S - P wrong`, where P weighs
the tokens of the piece; afterwards A and S become

    keep_last A + carry_last S - (in_A seen)^T wrong   and   persist_last S - (in_S seen)^T wrong

With ACT, x and seen are gelu of their rows in memory. Each stage reads tiles of BLOCK x BLOCK
numbers, because all of a piece would not fit in registers. Other threads read the results after the
next barrier.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from rlmem.kernels.titans.triton_parts import (
    density,
    dot,
    gelu,
    gelu_slope,
    load_rows,
    put_rows,
    put_tile,
    tile,
)


@triton.jit
@no_type_check
def inputs(x, stride, width, i, length, ACT: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr):
    rows = load_rows(x, stride, width, i, length, C, BLOCK)
    return gelu(rows) if ACT else rows


@triton.jit
@no_type_check
def gram(
    x, x_stride, y, y_stride, width, length, ACT: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """x y^T [C, C]."""
    total = tl.zeros([C, C], tl.float32)
    for i in range(0, width, BLOCK):
        left = inputs(x, x_stride, width, i, length, ACT, C, BLOCK)
        total += dot(left, tl.trans(inputs(y, y_stride, width, i, length, ACT, C, BLOCK)))
    return total


@triton.jit
@no_type_check
def multiply(
    x, x_stride, M, out, out_stride, R, W, length, factor, more, more_stride, sign,
    ACT: tl.constexpr, MORE: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out = factor (x M), or with MORE factor (x M + sign more)."""
    for j in range(0, W, BLOCK):
        total = tl.zeros([C, BLOCK], tl.float32)
        for i in range(0, R, BLOCK):
            left = inputs(x, x_stride, R, i, length, ACT, C, BLOCK)
            total += dot(left, tile(M, R, W, i, j, True, BLOCK, BLOCK))
        if MORE:
            total += sign * load_rows(more, more_stride, W, j, length, C, BLOCK)
        put_rows(out, factor * total, out_stride, W, j, length, C, BLOCK)


@triton.jit
@no_type_check
def transposed(y, y_stride, M, R, W, i, length, C: tl.constexpr, BLOCK: tl.constexpr):
    """y M^T, columns i ... i + BLOCK - 1."""
    total = tl.zeros([C, BLOCK], tl.float32)
    for j in range(0, W, BLOCK):
        part = load_rows(y, y_stride, W, j, length, C, BLOCK)
        total += dot(part, tl.trans(tile(M, R, W, i, j, True, BLOCK, BLOCK)))
    return total


@triton.jit
@no_type_check
def hidden_errors(
    wrong, wrong_stride, Z, a, out, stride, F, V, length, C: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Gradients at the inputs a of the hidden units, before their cut; returns squared lengths."""
    square = tl.zeros([C], tl.float32)
    for i in range(0, F, BLOCK):
        back = transposed(wrong, wrong_stride, Z, F, V, i, length, C, BLOCK)
        back *= gelu_slope(load_rows(a, stride, F, i, length, C, BLOCK))
        square += tl.sum(back * back, 1)
        put_rows(out, back, stride, F, i, length, C, BLOCK)
    return square


@triton.jit
@no_type_check
def read(
    x, x_stride, wrong, wrong_stride, scale, P, A, S, keep, carry, out, out_stride, R, W, length,
    begins, ACT: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    for j in range(0, W, BLOCK):
        total = -dot(P, load_rows(wrong, wrong_stride, W, j, length, C, BLOCK) * scale)
        by_A, by_S = tl.zeros([C, BLOCK], tl.float32), tl.zeros([C, BLOCK], tl.float32)
        for i in range(0, R, BLOCK):
            rows = inputs(x, x_stride, R, i, length, ACT, C, BLOCK)
            by_A += dot(rows, tile(A, R, W, i, j, True, BLOCK, BLOCK))
            by_S += dot(rows, tile(S, R, W, i, j, begins == 0, BLOCK, BLOCK))
        total += keep * by_A + carry * by_S
        put_rows(out, total, out_stride, W, j, length, C, BLOCK)


@triton.jit
@no_type_check
def learn(
    seen, seen_stride, wrong, wrong_stride, scale, A, S, Z, to_A, to_S, to_Z, in_A, in_S, ends, R,
    W, length, begins, goes_on, is_last, ACT: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    keep_last, carry_last, persist_last = ends
    for i in range(0, R, BLOCK):
        for j in range(0, W, BLOCK):
            rows = inputs(seen, seen_stride, R, i, length, ACT, C, BLOCK)
            error = load_rows(wrong, wrong_stride, W, j, length, C, BLOCK) * scale
            old = tile(A, R, W, i, j, True, BLOCK, BLOCK)
            speed = tile(S, R, W, i, j, begins == 0, BLOCK, BLOCK)
            new = keep_last * old + carry_last * speed - dot(tl.trans(rows * in_A), error)
            put_tile(to_A, new, R, W, i, j, goes_on, BLOCK, BLOCK)
            new = persist_last * speed - dot(tl.trans(rows * in_S), error)
            put_tile(to_S, new, R, W, i, j, goes_on, BLOCK, BLOCK)
            start = tile(Z, R, W, i, j, is_last, BLOCK, BLOCK)
            put_tile(to_Z, start, R, W, i, j, is_last, BLOCK, BLOCK)


@triton.jit
@no_type_check
def read_back(
    x, x_stride, seen, seen_stride, grad, grad_stride, for_P, A, S, keep, carry, into_x, into_seen,
    R, W, length, begins, ACT: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of x and (of P's part) of seen in memory; returns those of keep and carry.

    With ACT, the gradient is that of x before gelu, but that of seen after it.
    """
    into_keep, into_carry = tl.zeros([C], tl.float32), tl.zeros([C], tl.float32)
    for i in range(0, R, BLOCK):
        by_A, by_S = tl.zeros([C, BLOCK], tl.float32), tl.zeros([C, BLOCK], tl.float32)
        for j in range(0, W, BLOCK):
            part = load_rows(grad, grad_stride, W, j, length, C, BLOCK)
            by_A += dot(part, tl.trans(tile(A, R, W, i, j, True, BLOCK, BLOCK)))
            by_S += dot(part, tl.trans(tile(S, R, W, i, j, begins == 0, BLOCK, BLOCK)))
        raw = load_rows(x, x_stride, R, i, length, C, BLOCK)
        rows = gelu(raw) if ACT else raw
        into_keep += tl.sum(rows * by_A, 1)
        into_carry += tl.sum(rows * by_S, 1)
        other = inputs(seen, seen_stride, R, i, length, ACT, C, BLOCK)
        found = keep * by_A + carry * by_S + dot(for_P, other)
        if ACT:
            found *= gelu_slope(raw)
        put_rows(into_x, found, x_stride, R, i, length, C, BLOCK)
        put_rows(into_seen, dot(tl.trans(for_P), rows), seen_stride, R, i, length, C, BLOCK)
    return into_keep, into_carry


@triton.jit
@no_type_check
def seen_back(
    seen, seen_stride, wrong, wrong_stride, scale, for_A, for_S, in_A, in_S, into_seen, R, W,
    length, ACT: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add to the gradient of seen that of the layer's new A and S; returns those of in_A, in_S."""
    into_in_A, into_in_S = tl.zeros([C], tl.float32), tl.zeros([C], tl.float32)
    for i in range(0, R, BLOCK):
        from_A, from_S = tl.zeros([C, BLOCK], tl.float32), tl.zeros([C, BLOCK], tl.float32)
        for j in range(0, W, BLOCK):
            error = load_rows(wrong, wrong_stride, W, j, length, C, BLOCK) * scale
            from_A += dot(error, tl.trans(tile(for_A, R, W, i, j, True, BLOCK, BLOCK)))
            from_S += dot(error, tl.trans(tile(for_S, R, W, i, j, True, BLOCK, BLOCK)))
        rows = inputs(seen, seen_stride, R, i, length, ACT, C, BLOCK)
        into_in_A -= tl.sum(rows * from_A, 1)
        into_in_S -= tl.sum(rows * from_S, 1)
        found = load_rows(into_seen, seen_stride, R, i, length, C, BLOCK)
        found -= in_A * from_A + in_S * from_S
        put_rows(into_seen, found, seen_stride, R, i, length, C, BLOCK)
    return into_in_A, into_in_S


@triton.jit
@no_type_check
def mixed_back(
    P, grad, grad_stride, out, out_stride, width, length, C: tl.constexpr, BLOCK: tl.constexpr
):
    """out = -P^T grad, the gradient of the errors from the answers."""
    for j in range(0, width, BLOCK):
        rows = load_rows(grad, grad_stride, width, j, length, C, BLOCK)
        put_rows(out, -dot(tl.trans(P), rows), out_stride, width, j, length, C, BLOCK)


@triton.jit
@no_type_check
def wrong_back(
    seen, seen_stride, for_A, for_S, in_A, in_S, into_wrong, wrong_stride, R, W, length,
    ACT: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add to the gradient of the errors that of the layer's new A and S."""
    for j in range(0, W, BLOCK):
        total = load_rows(into_wrong, wrong_stride, W, j, length, C, BLOCK)
        for i in range(0, R, BLOCK):
            rows = inputs(seen, seen_stride, R, i, length, ACT, C, BLOCK)
            total -= dot(rows * in_A, tile(for_A, R, W, i, j, True, BLOCK, BLOCK))
            total -= dot(rows * in_S, tile(for_S, R, W, i, j, True, BLOCK, BLOCK))
        put_rows(into_wrong, total, wrong_stride, W, j, length, C, BLOCK)


@triton.jit
@no_type_check
def state_back(
    x, x_stride, grad, grad_stride, A, S, for_A, for_S, keep, carry, ends, R, W, length, begins,
    ACT: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Turn the gradients of A and S after the piece into those before it; returns `ends`' ones."""
    keep_last, carry_last, persist_last = ends
    e_keep, e_carry, e_persist = 0.0, 0.0, 0.0
    for i in range(0, R, BLOCK):
        for j in range(0, W, BLOCK):
            old = tile(A, R, W, i, j, True, BLOCK, BLOCK)
            speed = tile(S, R, W, i, j, begins == 0, BLOCK, BLOCK)
            to_A = tile(for_A, R, W, i, j, True, BLOCK, BLOCK)
            to_S = tile(for_S, R, W, i, j, True, BLOCK, BLOCK)
            e_keep += tl.sum(old * to_A)
            e_carry += tl.sum(speed * to_A)
            e_persist += tl.sum(speed * to_S)
            rows = inputs(x, x_stride, R, i, length, ACT, C, BLOCK)
            part = load_rows(grad, grad_stride, W, j, length, C, BLOCK)
            new = carry_last * to_A + persist_last * to_S + dot(tl.trans(rows * carry), part)
            put_tile(for_S, new, R, W, i, j, True, BLOCK, BLOCK)
            new = keep_last * to_A + dot(tl.trans(rows * keep), part)
            put_tile(for_A, new, R, W, i, j, True, BLOCK, BLOCK)
    return e_keep, e_carry, e_persist


@triton.jit
@no_type_check
def hidden_back(
    wrong, wrong_stride, Z, a, back, into_back, stride, scale, over, F, V, length, C: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """From the gradient of the cut errors at the hidden units to that of `wrong Z^T`, which takes
    the place of `back`, and that of a, which takes the place of `into_back`."""
    for i in range(0, F, BLOCK):
        raw = load_rows(back, stride, F, i, length, C, BLOCK)
        grad = load_rows(into_back, stride, F, i, length, C, BLOCK)
        grad = scale * (grad - raw * over)
        given = load_rows(a, stride, F, i, length, C, BLOCK)
        put_rows(back, grad * gelu_slope(given), stride, F, i, length, C, BLOCK)
        grad *= transposed(wrong, wrong_stride, Z, F, V, i, length, C, BLOCK)
        grad *= density(given) * (2 - given * given)
        put_rows(into_back, grad, stride, F, i, length, C, BLOCK)


@triton.jit
@no_type_check
def error_back(
    for_error, for_stride, Z, a, into_seen, into_a, stride, F, V, length, ACT: tl.constexpr,
    C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add the error's gradient to that of seen or, with ACT, both to that of a."""
    for i in range(0, F, BLOCK):
        found = transposed(for_error, for_stride, Z, F, V, i, length, C, BLOCK)
        found += load_rows(into_seen, stride, F, i, length, C, BLOCK)
        if ACT:
            found *= gelu_slope(load_rows(a, stride, F, i, length, C, BLOCK))
            found += load_rows(into_a, stride, F, i, length, C, BLOCK)
            put_rows(into_a, found, stride, F, i, length, C, BLOCK)
        else:
            put_rows(into_seen, found, stride, F, i, length, C, BLOCK)


@triton.jit
@no_type_check
def key_back(
    for_a, a_stride, Z, into_keys, stride, K, F, length, C: tl.constexpr, BLOCK: tl.constexpr
):
    """Add to the gradient of the keys that of the first layer's inputs."""
    for i in range(0, K, BLOCK):
        found = transposed(for_a, a_stride, Z, K, F, i, length, C, BLOCK)
        found += load_rows(into_keys, stride, K, i, length, C, BLOCK)
        put_rows(into_keys, found, stride, K, i, length, C, BLOCK)


@triton.jit
@no_type_check
def product_sums(x, y, stride, width, length, C: tl.constexpr, BLOCK: tl.constexpr):
    """The products x.y of rows, [C]."""
    total = tl.zeros([C], tl.float32)
    for i in range(0, width, BLOCK):
        left = load_rows(x, stride, width, i, length, C, BLOCK)
        total += tl.sum(left * load_rows(y, stride, width, i, length, C, BLOCK), 1)
    return total


@triton.jit
@no_type_check
def anchor_back(
    x, x_stride, grad, grad_stride, y, y_grad, y_grad_stride, Z_to, A_to, S_to, first_to, R, W,
    length, begins, opens, is_first, is_last, ACT: tl.constexpr, TWO: tl.constexpr, C: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Pass on the anchor's gradient `x^T grad` (TWO: and `y^T y_grad`): to A if a chunk opens, and
    to the first A if an episode begins."""
    for i in range(0, R, BLOCK):
        for j in range(0, W, BLOCK):
            rows = inputs(x, x_stride, R, i, length, ACT, C, BLOCK)
            new = dot(tl.trans(rows), load_rows(grad, grad_stride, W, j, length, C, BLOCK))
            if TWO:
                rows = load_rows(y, x_stride, R, i, length, C, BLOCK)
                other = load_rows(y_grad, y_grad_stride, W, j, length, C, BLOCK)
                new += dot(tl.trans(rows), other)
            new += tile(Z_to, R, W, i, j, is_last, BLOCK, BLOCK)
            whole = tile(A_to, R, W, i, j, True, BLOCK, BLOCK) + tl.where(opens, new, 0.0)
            old = tile(first_to, R, W, i, j, begins, BLOCK, BLOCK)
            put_tile(first_to, old + whole, R, W, i, j, begins, BLOCK, BLOCK)
            put_tile(A_to, tl.where(begins, 0.0, whole), R, W, i, j, True, BLOCK, BLOCK)
            put_tile(S_to, tl.zeros_like(new), R, W, i, j, begins, BLOCK, BLOCK)
            put_tile(Z_to, tl.where(opens, 0.0, new), R, W, i, j, is_first, BLOCK, BLOCK)


@triton.jit
@no_type_check
def put_ends(x, keep, carry, persist):
    tl.store(x, keep)
    tl.store(x + 1, carry)
    tl.store(x + 2, persist)
