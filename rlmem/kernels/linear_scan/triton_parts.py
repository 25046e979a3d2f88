"""Device functions of `triton_kernels.py`: arithmetic on reals and complex numbers, loads.

A number is a tuple of its components, `(re,)` or `(re, im)`; in memory a complex number is two
adjacent reals. A track is a pair: the address of a row's first step, and the stride between steps.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def unpack(raw, COMPLEX: tl.constexpr):
    """The components of loaded numbers, in float32 or wider."""
    wide = raw if raw.dtype == tl.float64 else raw.to(tl.float32)
    if COMPLEX:
        return tl.split(wide)
    else:
        return (wide,)


@triton.jit
@no_type_check
def pack(x, COMPLEX: tl.constexpr):
    """The numbers to store, from their components."""
    if COMPLEX:
        return tl.join(x[0], x[1])
    else:
        return x[0]


@triton.jit
@no_type_check
def fma(a, x, b, COMPLEX: tl.constexpr):
    """`a * x + b`."""
    if COMPLEX:
        return (a[0] * x[0] - a[1] * x[1] + b[0], a[0] * x[1] + a[1] * x[0] + b[1])
    else:
        return (a[0] * x[0] + b[0],)


@triton.jit
@no_type_check
def add(a, b, COMPLEX: tl.constexpr):
    if COMPLEX:
        return (a[0] + b[0], a[1] + b[1])
    else:
        return (a[0] + b[0],)


@triton.jit
@no_type_check
def mul(a, x, COMPLEX: tl.constexpr):
    if COMPLEX:
        return (a[0] * x[0] - a[1] * x[1], a[0] * x[1] + a[1] * x[0])
    else:
        return (a[0] * x[0],)


@triton.jit
@no_type_check
def conj(x, COMPLEX: tl.constexpr):
    if COMPLEX:
        return (x[0], -x[1])
    else:
        return x


@triton.jit
@no_type_check
def select(condition, yes, no, COMPLEX: tl.constexpr):
    """A selection, not a product with 0 or 1: the other operand has no effect, even if NaN."""
    if COMPLEX:
        return (tl.where(condition, yes[0], no[0]), tl.where(condition, yes[1], no[1]))
    else:
        return (tl.where(condition, yes[0], no[0]),)


@triton.jit
@no_type_check
def locate(size, chunks, COMPLEX: tl.constexpr, BLOCK: tl.constexpr):
    """Row and chunk of this program; offsets of its numbers in a time step of `size` reals."""
    WIDTH: tl.constexpr = 2 if COMPLEX else 1
    blocks = tl.cdiv(size, BLOCK * WIDTH)
    program = tl.program_id(0)
    place = program // blocks
    lanes = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    if COMPLEX:
        lanes = 2 * lanes[:, None] + tl.arange(0, 2)[None, :]
    # 64 bits from here on: a tensor may have more elements than 32-bit integers can count.
    return (place // chunks).to(tl.int64), place % chunks, lanes


@triton.jit
@no_type_check
def track(x, row, T, size, reverse):
    """The address of a row's first step, and the stride from one step to the next."""
    first = x + (row * T + tl.where(reverse, T - 1, 0)) * size
    return first, tl.where(reverse, -size, size).to(tl.int64)


@triton.jit
@no_type_check
def within(condition, lanes, size):
    """The lanes that exist; none if the scalar `condition` is False."""
    return lanes < tl.where(condition, size, 0)


@triton.jit
@no_type_check
def fetch(x, lanes, size, other, step, end, UNROLL: tl.constexpr):
    """Begin to load `UNROLL` steps of the track `x`, if given; `other` at steps from `end` on."""
    tiles = ()
    if x is not None:
        for i in tl.static_range(UNROLL):
            at = x[0] + (step + i) * x[1] + lanes
            tiles += (tl.load(at, within(step + i < end, lanes, size), other),)
    return tiles


@triton.jit
@no_type_check
def fetch_all(gate, value, start, lanes, size, step, end, UNROLL: tl.constexpr):
    """Loads for `UNROLL` steps: values, gates unless constant, and starts if given."""
    values = fetch(value, lanes, size, 0, step, end, UNROLL)
    gates = fetch(gate, lanes, size, 0, step, end, UNROLL)
    flags = fetch(start, 0, 1, 0, step, end, UNROLL)
    return values, gates, flags


@triton.jit
@no_type_check
def zeros(lanes, like, COMPLEX: tl.constexpr):
    return unpack(tl.zeros_like(lanes).to(like.dtype.element_ty), COMPLEX)


@triton.jit
@no_type_check
def ones(zero, COMPLEX: tl.constexpr):
    if COMPLEX:
        return (zero[0] + 1, zero[1])
    else:
        return (zero[0] + 1,)


@triton.jit
@no_type_check
def first_state(first, carry, row, chunk, chunks, size, lanes, like, COMPLEX: tl.constexpr):
    """The state before this chunk: `first` [B, D] or zero, or `carry` from the chunk before."""
    x = zeros(lanes, like, COMPLEX)
    if first is not None:
        at = first + row * size + lanes
        x = unpack(tl.load(at, within(chunk == 0, lanes, size), 0), COMPLEX)
    if carry is not None:
        at = carry + (row * (chunks - 1) + chunk - 1) * size + lanes
        carried = unpack(tl.load(at, within(chunk > 0, lanes, size), 0), COMPLEX)
        x = select(chunk > 0, carried, x, COMPLEX)
    return x
