"""The diagonal linear recurrence on CUDA devices: chooses and launches the Triton kernels.

Two ways, chosen by shape. Where rows and channels alone fill the machine, one pass walks each row
from its first step to its last. Where they are too few for that and the rows are long, rows are cut
into chunks that are walked side by side: a first pass finds what each chunk does to the state, a
scan over these summaries (this very operation, on a row that is shorter by the length of a chunk)
gives the state before each chunk, and a last pass is the plain one from there. That reads gates and
values twice, and is worth it below about half of the programs that fill the machine. Gates above 1
whose product over a chunk overflows give infinities or NaNs, as they do in every parallel scan.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from rlmem.kernels.linear_scan import gpu_kernels


class Config(NamedTuple):
    """How much one program takes: `block` channels, and `unroll` time steps loaded ahead."""

    block: int
    unroll: int


# By bytes per number: for few programs, so that there are more of them, and for many, where each
# of a warp's 32 threads moves 8 or 16 bytes at a time.
NARROW = {2: Config(64, 8), 4: Config(32, 8), 8: Config(32, 4), 16: Config(32, 4)}
WIDE = {2: Config(128, 4), 4: Config(128, 4), 8: Config(64, 4), 16: Config(32, 4)}

# Programs of one warp each. A program keeps `block * unroll` gates and values on their way from
# memory, 2 KB or more; about 10 of them on each of 132 processors hide the memory's latency.
MANY = 4096
FULL = 2048
FEW = 640
# Steps below which a row is not cut, and the least that a chunk has.
LONG = 512
SHORTEST = 64


class Plan(NamedTuple):
    """The configuration for one shape; `chunk` is the number of steps of a chunk."""

    config: Config
    blocks: int
    chunk: int
    parts: int


def plan(shape: torch.Size, itemsize: int) -> Plan:
    """The static table: from [B, T, D] and the bytes of a number to a `Plan`."""
    rows, steps, channels = shape
    config = WIDE[itemsize]
    blocks = -(-channels // config.block)
    # 16 bytes at a time need steps that begin at multiples of 16 bytes; Triton counts in numbers.
    if channels % 16 or rows * blocks < MANY:
        config = NARROW[itemsize]
        blocks = -(-channels // config.block)
    programs = rows * blocks
    if programs >= FEW or steps < LONG:
        return Plan(config, blocks, steps, 1)
    chunk = max(SHORTEST, -(-steps * programs // FULL))
    chunk = -(-chunk // config.unroll) * config.unroll
    return Plan(config, blocks, chunk, -(-steps // chunk))


def forward(
    gate: Shaped[Tensor, "*BT D"],
    value: Shaped[Tensor, "B T D"],
    h0: Shaped[Tensor, "B D"] | None,
    start: Bool[Tensor, "B T"] | None,
    reverse: bool,
) -> Shaped[Tensor, "B T D"]:
    """`h[t] = gate[t] * (0 if start[t] else h[t-1]) + value[t]`; with `reverse` t runs downwards.

    `gate` is [B, T, D] or a constant [D]. Contiguous, one dtype: float32, float64, bfloat16
    (accumulated in float32), complex64 or complex128.
    """
    h = torch.empty_like(value)
    way = plan(value.shape, value.itemsize)
    carry = None
    if way.parts > 1:
        first = None if h0 is None else h0.to(_wide(value.dtype))
        carry = _carry(gate, value, first, start, reverse, way, adjoint=False)
    tensors = (gate, value, h0, carry, start, h)
    _launch(gpu_kernels.forward_kernel, tensors, value, way, way.parts, reverse, gate.dim() == 1)
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
    """Gradients of `forward` for gate, value and h0, each only where `needs` asks for it.

    Without `needs`: all that there are. `h` and `h0` are read for the gate's gradient only and may
    be None where that is not needed. A constant gate's is summed in a fixed order.
    """
    need_gate, need_value, need_h0 = (True, True, h0 is not None) if needs is None else needs
    rows, _, channels = grad_h.shape
    way = plan(grad_h.shape, grad_h.itemsize)
    constant = gate.dim() == 1
    carry = None
    if way.parts > 1:
        carry = _carry(gate, grad_h, None, start, not reverse, way, adjoint=True)
    grad_gate = grad_value = grad_h0 = None
    if need_gate and constant:
        grad_gate = grad_h.new_empty((rows * way.parts, channels), dtype=_wide(grad_h.dtype))
    elif need_gate:
        grad_gate = torch.empty_like(grad_h)
    if need_value:
        grad_value = torch.empty_like(grad_h)
    if need_h0:
        grad_h0 = grad_h.new_empty((rows, channels))
    states = (h, h0) if need_gate else (None, None)
    tensors = (grad_h, gate, *states, carry, start, grad_gate, grad_value, grad_h0)
    _launch(gpu_kernels.backward_kernel, tensors, grad_h, way, way.parts, not reverse, constant)
    if grad_gate is not None and constant:
        grad_gate = grad_gate.sum(0).to(gate.dtype)
    return grad_gate, grad_value, grad_h0


def _carry(
    gate: Tensor,
    value: Tensor,
    first: Tensor | None,
    start: Tensor | None,
    reverse: bool,
    way: Plan,
    *,
    adjoint: bool,
) -> Tensor:
    """The state after every chunk but the last, [B, parts - 1, D], in the order of the walk."""
    rows, _, channels = value.shape
    parts = way.parts - 1
    product = value.new_empty((rows, parts, channels), dtype=_wide(value.dtype))
    last = torch.empty_like(product)
    cut = None if start is None else start.new_empty((rows, parts))
    tensors = (gate, value, start, product, last, cut)
    forms = (reverse, gate.dim() == 1)
    _launch(gpu_kernels.summary_kernel, tensors, value, way, parts, *forms, ADJOINT=adjoint)
    return forward(product, last, first, cut, False)


def _launch(
    kernel: Any,
    tensors: tuple[Tensor | None, ...],
    like: Tensor,
    way: Plan,
    parts: int,
    reverse: bool,
    constant: bool,
    **more: bool,
) -> None:
    """One program for each block of channels of each of `parts` chunks of each row."""
    rows, steps, channels = like.shape
    width = 2 if like.is_complex() else 1
    with torch.cuda.device_of(like):
        kernel[(rows * parts * way.blocks,)](
            *map(_pointer, tensors),
            steps,
            channels * width,
            way.chunk,
            parts,
            reverse,
            CONSTANT=constant,
            COMPLEX=like.is_complex(),
            **more,
            BLOCK=way.config.block,
            UNROLL=way.config.unroll,
            num_warps=1,
            enable_fp_fusion=True,
        )


def _pointer(x: Tensor | None) -> Tensor | None:
    """`x` as the reals or bytes that a kernel sees."""
    if x is None:
        return None
    if x.is_complex():
        return torch.view_as_real(x)
    return x.view(torch.uint8) if x.dtype == torch.bool else x


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which the kernels accumulate."""
    return torch.float32 if dtype == torch.bfloat16 else dtype
