"""The diagonal linear recurrence on CUDA devices: launches the Triton kernels.

The shape selects one of two methods. If there are enough rows and channels to fill the device, one
pass computes each row from its first step to its last. If there are too few and the rows are long,
rows are cut into chunks that are computed in parallel: a first pass summarises the effect of each
chunk on the state, a scan over these summaries (this same operation on a row of chunks) gives the
state before each chunk, and a last pass computes the steps of each chunk. That reads gates and
values twice, and pays off below about half of the programs that fill the device. Gates above 1
whose product over a chunk overflows give infinities or NaNs, as in every parallel scan.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from rlmem.kernels.linear_scan import triton_kernels


class ProgramConfig(NamedTuple):
    """The work of one program: `block` channels; it loads `unroll` time steps ahead."""

    block: int
    unroll: int


# By bytes per number. NARROW makes more programs, for inputs that would give few. In WIDE each of a
# warp's 32 threads moves 8 or 16 bytes at a time.
NARROW = {
    2: ProgramConfig(64, 8),
    4: ProgramConfig(32, 8),
    8: ProgramConfig(32, 4),
    16: ProgramConfig(32, 4),
}
WIDE = {
    2: ProgramConfig(128, 4),
    4: ProgramConfig(128, 4),
    8: ProgramConfig(64, 4),
    16: ProgramConfig(32, 4),
}

# Numbers of programs, of one warp each: from MANY on they are wide, FULL fill the device, and below
# FEW rows are cut. A program has `block * unroll` gates and values in flight from memory, 2 KB or
# more; about 10 programs on each of 132 multiprocessors hide the latency of memory.
MANY = 4096
FULL = 2048
FEW = 640
# Shorter rows are not cut; no chunk has fewer steps than SHORTEST.
LONG = 512
SHORTEST = 64


class LaunchConfig(NamedTuple):
    """Launch settings for one shape: `blocks` of channels, and `chunks` of `chunk_steps` steps."""

    program: ProgramConfig
    blocks: int
    chunk_steps: int
    chunks: int


def launch_config(shape: torch.Size, itemsize: int) -> LaunchConfig:
    """The settings for shape [B, T, D] and the bytes per number, from a static table."""
    rows, steps, channels = shape
    program = WIDE[itemsize]
    blocks = -(-channels // program.block)
    # 16-byte loads need steps aligned to 16 bytes; Triton counts the alignment in numbers.
    if channels % 16 or rows * blocks < MANY:
        program = NARROW[itemsize]
        blocks = -(-channels // program.block)
    programs = rows * blocks
    if programs >= FEW or steps < LONG:
        return LaunchConfig(program, blocks, steps, 1)
    chunk_steps = max(SHORTEST, -(-steps * programs // FULL))
    chunk_steps = -(-chunk_steps // program.unroll) * program.unroll
    return LaunchConfig(program, blocks, chunk_steps, -(-steps // chunk_steps))


def forward(
    gate: Shaped[Tensor, "*BT D"],
    value: Shaped[Tensor, "B T D"],
    h0: Shaped[Tensor, "B D"] | None,
    start: Bool[Tensor, "B T"] | None,
    reverse: bool,
) -> Shaped[Tensor, "B T D"]:
    """`h[t] = gate[t] * (0 if start[t] else h[t-1]) + value[t]`; with `reverse`, t runs downwards.

    `gate` is [B, T, D] or a constant [D]. Contiguous, one dtype: float32, float64, bfloat16
    (accumulated in float32), complex64 or complex128.
    """
    h = torch.empty_like(value)
    launch = launch_config(value.shape, value.itemsize)
    carry = None
    if launch.chunks > 1:
        first = None if h0 is None else h0.to(_wide(value.dtype))
        carry = _chunk_states(gate, value, first, start, reverse, launch, adjoint=False)
    tensors = (gate, value, h0, carry, start, h)
    _launch(
        triton_kernels.forward_kernel,
        tensors,
        value,
        launch,
        launch.chunks,
        reverse,
        gate.dim() == 1,
    )
    return h


def backward(
    grad_h: Shaped[Tensor, "B T D"],
    gate: Shaped[Tensor, "*BT D"],
    h: Shaped[Tensor, "B T D"] | None,
    h0: Shaped[Tensor, "B D"] | None,
    start: Bool[Tensor, "B T"] | None,
    reverse: bool,
    needs: tuple[bool, ...] | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of `forward` for gate, value and h0, each only if `needs` asks for it.

    Without `needs`: all gradients. `h` and `h0` are read only for the gate's gradient and may be
    None if that is not needed. The gradient of a constant gate is summed in a fixed order.
    """
    need_gate, need_value, need_h0 = (True, True, h0 is not None) if needs is None else needs
    rows, _, channels = grad_h.shape
    launch = launch_config(grad_h.shape, grad_h.itemsize)
    constant = gate.dim() == 1
    carry = None
    if launch.chunks > 1:
        carry = _chunk_states(gate, grad_h, None, start, not reverse, launch, adjoint=True)
    grad_gate = grad_value = grad_h0 = None
    if need_gate and constant:
        grad_gate = grad_h.new_empty((rows * launch.chunks, channels), dtype=_wide(grad_h.dtype))
    elif need_gate:
        grad_gate = torch.empty_like(grad_h)
    if need_value:
        grad_value = torch.empty_like(grad_h)
    if need_h0:
        grad_h0 = grad_h.new_empty((rows, channels))
    states = (h, h0) if need_gate else (None, None)
    tensors = (grad_h, gate, *states, carry, start, grad_gate, grad_value, grad_h0)
    _launch(
        triton_kernels.backward_kernel,
        tensors,
        grad_h,
        launch,
        launch.chunks,
        not reverse,
        constant,
    )
    if grad_gate is not None and constant:
        grad_gate = grad_gate.sum(0).to(gate.dtype)
    return grad_gate, grad_value, grad_h0


def _chunk_states(
    gate: Tensor,
    value: Tensor,
    first: Tensor | None,
    start: Tensor | None,
    reverse: bool,
    launch: LaunchConfig,
    *,
    adjoint: bool,
) -> Tensor:
    """The state after every chunk but the last, [B, chunks - 1, D], in the order of computation."""
    rows, _, channels = value.shape
    chunks = launch.chunks - 1
    product = value.new_empty((rows, chunks, channels), dtype=_wide(value.dtype))
    last = torch.empty_like(product)
    cut = None if start is None else start.new_empty((rows, chunks))
    tensors = (gate, value, start, product, last, cut)
    forms = (reverse, gate.dim() == 1)
    _launch(triton_kernels.summary_kernel, tensors, value, launch, chunks, *forms, ADJOINT=adjoint)
    return forward(product, last, first, cut, False)


def _launch(
    kernel: Any,
    tensors: tuple[Tensor | None, ...],
    like: Tensor,
    launch: LaunchConfig,
    chunks: int,
    reverse: bool,
    constant: bool,
    **more: bool,
) -> None:
    """Launch one program for each block of channels of each of `chunks` chunks of each row."""
    rows, steps, channels = like.shape
    width = 2 if like.is_complex() else 1
    with torch.cuda.device_of(like):
        kernel[(rows * chunks * launch.blocks,)](
            *map(_pointer, tensors),
            steps,
            channels * width,
            launch.chunk_steps,
            chunks,
            reverse,
            CONSTANT=constant,
            COMPLEX=like.is_complex(),
            **more,
            BLOCK=launch.program.block,
            UNROLL=launch.program.unroll,
            num_warps=1,
            enable_fp_fusion=True,
        )


def _pointer(x: Tensor | None) -> Tensor | None:
    """`x` as a tensor of reals or bytes, the form that kernels read."""
    if x is None:
        return None
    if x.is_complex():
        return torch.view_as_real(x)
    return x.view(torch.uint8) if x.dtype == torch.bool else x


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the kernels' accumulators."""
    return torch.float32 if dtype == torch.bfloat16 else dtype
