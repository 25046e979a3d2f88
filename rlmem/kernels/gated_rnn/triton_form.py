"""The gated recurrent networks on CUDA devices: launches the Triton kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlmem.kernels.gated_rnn import triton_kernels
from rlmem.kernels.gated_rnn.cells import CELLS, PER_UNIT
from rlmem.kernels.gated_rnn.torch_form import Results, allocate_saved, sums


class LaunchConfig(NamedTuple):
    """Rows and warps of a program; `on_chip`: it keeps the matrices of its head on chip.

    `registers` is the limit per thread, set where the compiler's own choice is too low.
    """

    rows: int
    warps: int
    on_chip: bool
    registers: int | None = None


# By the units of a head, rounded up. A tensor core multiplies at least 16 rows.
CONFIGS = {
    16: LaunchConfig(16, 2, True),
    32: LaunchConfig(16, 4, True, registers=255),
    64: LaunchConfig(16, 8, True),
    128: LaunchConfig(16, 8, False),
}
LARGE = 64


def supports(x: Tensor, weight: Tensor) -> bool:
    """Whether there is a kernel for this dtype and width."""
    return x.dtype == torch.float32 and weight.shape[1] <= max(CONFIGS)


def launch_config(cell: str, width: int) -> tuple[int, LaunchConfig]:
    """The units, rounded up to a size in `CONFIGS`, and its settings."""
    padded = min(size for size in CONFIGS if size >= width)
    config = CONFIGS[padded]
    # Four states, or addresses not aligned to vectors, leave too few registers for large matrices.
    if padded == LARGE and (width % 16 or CELLS[cell].states == 4):
        config = config._replace(on_chip=False)
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
    """Same as `torch_form.forward`."""
    width = weight.shape[1]
    h = projected.new_empty(*projected.shape[:-1], width)
    last = state.new_empty(state.shape)
    activations, saved_states = allocate_saved(projected, weight, state, save)
    tensors = (projected, weight, bias, state, start, h, last, activations, saved_states)
    _launch(triton_kernels.forward_kernel, tensors, cell, h, SAVE=save)
    return h, last, activations, saved_states


def backward(
    cell: str,
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    weight: Tensor,
    state: Tensor,
    start: Tensor | None,
    h: Tensor,
    activations: Tensor,
    saved_states: Tensor,
) -> Results:
    """Same as `torch_form.backward`."""
    grad_projected = h.new_empty(*h.shape[:-1], weight.shape[-1])
    grad_state = state.new_empty(state.shape)
    grad_h_n = torch.empty_like(h) if CELLS[cell].gates < PER_UNIT else None
    tensors = (grad_h, grad_last, weight, state, start, h, activations, saved_states)
    results = (grad_projected, grad_h_n, grad_state)
    _launch(triton_kernels.backward_kernel, tensors + results, cell, h)
    before = torch.cat([state[:, :1], h[:, :-1]], dim=1)
    if start is not None:
        before.masked_fill_(start[..., None, None], 0)
    return grad_projected, *sums(before, grad_projected, grad_h_n), grad_state


def _launch(
    kernel: Any, tensors: tuple[Tensor | None, ...], cell: str, h: Tensor, **more: bool
) -> None:
    """Launch one program for each head of each block of rows."""
    rows, time, heads, width = h.shape
    padded, config = launch_config(cell, width)
    with torch.cuda.device_of(h):
        kernel[(-(-rows // config.rows), heads)](
            *map(_pointer, tensors),
            rows,
            time,
            heads,
            width,
            CELL=list(CELLS).index(cell),
            ON_CHIP=config.on_chip,
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
