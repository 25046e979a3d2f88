"""Device functions of `triton_kernels.py`: the offsets of a program's data, and loads."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def locate(T, heads, keys, values, KEYS: tl.constexpr, VALUES: tl.constexpr):
    """Offsets of this program's row, head and columns.

    Returns the row; the offset of the head in the row's first step; the same in tensors of partial
    sums, which have one slice per block of columns; the columns of keys and of values; the offsets
    in a state, and a mask of those that exist.
    """
    head = tl.program_id(0)
    # 64 bits from here on: a tensor may have more elements than 32-bit integers can count.
    row = (head // heads).to(tl.int64)
    first = row * T * heads + head % heads
    rows = (tl.num_programs(0) // heads).to(tl.int64)
    partial = tl.program_id(1) * rows * T * heads + first
    i = tl.arange(0, KEYS)
    j = tl.program_id(1) * VALUES + tl.arange(0, VALUES)
    cell = head.to(tl.int64) * keys * values + i[:, None] * values + j[None, :]
    return row, first, partial, i, j, cell, (i < keys)[:, None] & (j < values)[None, :]


@triton.jit
@no_type_check
def vector(x, first, t, T, heads, width, columns):
    """A head's numbers in step t; zeros if the step does not exist."""
    at = x + (first + t.to(tl.int64) * heads) * width + columns
    return tl.load(at, columns < tl.where((t >= 0) & (t < T), width, 0), 0.0)


@triton.jit
@no_type_check
def scalar(x, first, t, T, heads):
    """A head's number in step t."""
    return tl.load(x + first + t.to(tl.int64) * heads, (t >= 0) & (t < T), 0.0)


@triton.jit
@no_type_check
def gates(beta, g, start, row, first, t, T, heads):
    """`beta`, the decay `exp(g)`, and whether an episode starts, at step t."""
    there = (t >= 0) & (t < T)
    flag = tl.load(start + row * T + t, there, 0) != 0
    decay = 1.0
    if g is not None:
        decay = tl.exp(scalar(g, first, t, T, heads))
    return scalar(beta, first, t, T, heads), decay, flag
