"""Device functions of `triton_kernels.py`: places, and loads in the dtype of the sums."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def wide(x):
    """`x` in the dtype of the sums: float64, or float32 for narrower numbers.

    Of a pointer: a zero of that dtype.
    """
    if x.dtype.is_ptr():
        return tl.zeros((), tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32)
    else:
        return x if x.dtype == tl.float64 else x.to(tl.float32)


@triton.jit
@no_type_check
def locate(positions, D, STEPS: tl.constexpr, CHANNELS: tl.constexpr):
    """Of this program: the row, its first position, the others relative to it, and the channels.

    `place` are the offsets of all its numbers from that of the first position and channel 0.
    """
    blocks = tl.cdiv(positions, STEPS)
    parts = tl.cdiv(D, CHANNELS)
    program = tl.program_id(0)
    # 64 bits for what one number per program counts: a tensor may have more than 2^31 elements.
    row = (program // parts // blocks).to(tl.int64)
    first = (program // parts % blocks).to(tl.int64) * STEPS
    i = tl.arange(0, STEPS)
    d = program % parts * CHANNELS + tl.arange(0, CHANNELS)
    return row, first, i, d, i[:, None] * D + d[None, :]


@triton.jit
@no_type_check
def begins(start, row, t, T):
    """Whether an episode begins at the steps `t`; none does outside the row."""
    return tl.load(start + row * T + t, (t >= 0) & (t < T), 0) != 0


@triton.jit
@no_type_check
def tap(weight, d, j, D, W):
    """The weight of step t - j."""
    return wide(tl.load(weight + d * W + (W - 1 - j), d < D, 0))


@triton.jit
@no_type_check
def past(x, window, row, first, i, place, there, T, D, W):
    """The inputs from position `first` on, of the row or of the window before it; 0 elsewhere."""
    in_row = (first + i >= 0)[:, None]
    value = wide(tl.load(x + (row * T + first) * D + place, there & in_row, 0))
    before = window + (row * (W - 1) + first + W - 1) * D + place
    return tl.where(in_row, value, wide(tl.load(before, there & ~in_row, 0)))
