"""The gated recurrent networks on CUDA devices: chooses and launches the Triton kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlmem.kernels.gated_rnn import gpu_kernels
from rlmem.kernels.gated_rnn.cells import CELLS, PARTS
from rlmem.kernels.gated_rnn.plain import Results, saved, sums


class Config(NamedTuple):
    """`rows` and `warps` of a program; whether it keeps the matrices of its head on chip.

    `registers` is what a thread may have where the compiler, left alone, gives too few.
    """

    rows: int
    warps: int
    kept: bool
    registers: int | None = None


# By the units of a head, rounded up. 16 rows are the least that a tensor core multiplies.
CONFIGS = {
    16: Config(16, 2, True),
    32: Config(16, 4, True, registers=255),
    64: Config(16, 8, True),
    128: Config(16, 8, False),
}
LARGE = 64


def serves(x: Tensor, weight: Tensor) -> bool:
    """Whether there is a kernel for this dtype and width."""
    return x.dtype == torch.float32 and weight.shape[1] <= max(CONFIGS)


def plan(cell: str, width: int) -> tuple[int, Config]:
    """Units, rounded up to a size that there is a configuration for, and that."""
    padded = min(size for size in CONFIGS if size >= width)
    config = CONFIGS[padded]
    # Four states, or addresses that are no vectors, leave too few registers for large matrices.
    if padded == LARGE and (width % 16 or CELLS[cell].states == 4):
        config = config._replace(kept=False)
    return padded, config


def forward(
    cell: str,
    projected: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor,
    start: Tensor | None,
    save: bool,
) -> Results:
    """Same as `plain.forward`."""
    width = weight.shape[1]
    h = projected.new_empty(*projected.shape[:-1], width)
    last = state.new_empty(state.shape)
    parts, kept = saved(projected, weight, state, save)
    tensors = (projected, weight, bias, state, start, h, last, parts, kept)
    _launch(gpu_kernels.forward_kernel, tensors, cell, h, SAVE=save)
    return h, last, parts, kept


def backward(
    cell: str,
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    weight: Tensor,
    state: Tensor,
    start: Tensor | None,
    h: Tensor,
    parts: Tensor,
    kept: Tensor,
) -> Results:
    """Same as `plain.backward`."""
    grad_projected = h.new_empty(*h.shape[:-1], weight.shape[-1])
    grad_state = state.new_empty(state.shape)
    shared = torch.empty_like(h) if CELLS[cell].gates < PARTS else None
    tensors = (grad_h, grad_last, weight, state, start, h, parts, kept)
    results = (grad_projected, shared, grad_state)
    _launch(gpu_kernels.backward_kernel, tensors + results, cell, h)
    before = torch.cat([state[:, :1], h[:, :-1]], dim=1)
    if start is not None:
        before.masked_fill_(start[..., None, None], 0)
    return grad_projected, *sums(before, grad_projected, shared), grad_state


def _launch(
    kernel: Any, tensors: tuple[Tensor | None, ...], cell: str, h: Tensor, **more: bool
) -> None:
    """One program for each head of a block of rows."""
    rows, time, heads, width = h.shape
    padded, config = plan(cell, width)
    with torch.cuda.device_of(h):
        kernel[(-(-rows // config.rows), heads)](
            *map(_pointer, tensors),
            rows,
            time,
            heads,
            width,
            CELL=list(CELLS).index(cell),
            KEPT=config.kept,
            **more,
            BM=config.rows,
            DP=padded,
            num_warps=config.warps,
            num_stages=1,
            maxnreg=config.registers,
            enable_fp_fusion=True,
        )


def _pointer(x: Tensor | None) -> Tensor | None:
    if x is None:
        return None
    x = x.contiguous()
    return x.view(torch.uint8) if x.dtype == torch.bool else x
