"""The gated recurrent networks on CUDA devices: launches the Triton kernels.

Everything is float32, or `projected`, `weight` and their gradients are bfloat16: then the factors
of products are rounded to bfloat16, and sums and states stay float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlmem.kernels.gated_rnn import triton_kernels
from rlmem.kernels.gated_rnn.cells import CELLS, PER_UNIT
from rlmem.kernels.gated_rnn.torch_form import Results, allocate_saved, outer, sums


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


class WideConfig(NamedTuple):
    """For heads that are read at every step in tiles: rows, units of a tile, warps, stages.

    Stages are those of the loops over products. `spread`: the tiles are shared out over programs,
    and each step is a launch of its own.
    """

    rows: int
    units: int
    warps: int
    stages: int
    spread: bool


WIDE = WideConfig(16, 64, 8, 2, False)
# Units from which a step of one program is predicted to take longer than a launch.
SPREAD = 257


def supports(x: Tensor) -> bool:
    """Whether there are kernels for this dtype."""
    return x.dtype in (torch.float32, torch.bfloat16)


def wide_config(cell: str, weight: Tensor) -> WideConfig | None:
    """The settings for heads of too many units for a program; None for other heads."""
    width = weight.shape[1]
    if width <= max(CONFIGS):
        padded, config = launch_config(cell, width)
        # Without tiles, kernels would spill that read matrices at every step, if these are bfloat16
        # or at addresses that are not aligned to vectors.
        tiled = weight.dtype == torch.bfloat16 or (padded == max(CONFIGS) and width % 16)
        if config.on_chip or not tiled:
            return None
    return WIDE._replace(spread=width >= SPREAD)


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
    h = state.new_empty(*projected.shape[:-1], width)
    last = state.new_empty(state.shape)
    activations, saved_states = allocate_saved(projected, weight, state, save)
    tensors = (projected, weight, bias, state, start, h, last, activations, saved_states)
    if wide := wide_config(cell, weight):
        kernel, steps = triton_kernels.wide_forward_kernel, h.shape[1]
        _launch_wide(kernel, tensors, cell, h, wide, steps, SAVE=save)
    else:
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
    grad_projected = weight.new_empty(*h.shape[:-1], weight.shape[-1])
    grad_state = state.new_empty(state.shape)
    grad_h_n = torch.empty_like(h) if CELLS[cell].gates < PER_UNIT else None
    tensors = (grad_h, grad_last, weight, state, start, h, activations, saved_states)
    results = (grad_projected, grad_h_n, grad_state)
    if wide := wide_config(cell, weight):
        kernel, steps = triton_kernels.wide_backward_kernel, h.shape[1] + 1
        _launch_wide(kernel, tensors + results, cell, h, wide, steps)
    else:
        _launch(triton_kernels.backward_kernel, tensors + results, cell, h)
    before = torch.cat([state[:, :1], h[:, :-1]], dim=1)
    if start is not None:
        before.masked_fill_(start[..., None, None], 0)
    return grad_projected, *_sums(before, grad_projected, grad_h_n), grad_state


def _sums(before: Tensor, grad: Tensor, grad_h_n: Tensor | None) -> tuple[Tensor, Tensor]:
    """Same as `torch_form.sums`; `grad` may be bfloat16, and the weight's gradient then is too."""
    if grad.dtype == before.dtype:
        return sums(before, grad, grad_h_n)
    bias = grad.sum((0, 1), dtype=before.dtype)
    if grad_h_n is not None:
        bias = torch.cat([bias, grad_h_n.sum((0, 1))], dim=-1)
        grad_h_n = grad_h_n.to(grad.dtype)
    return outer(before.to(grad.dtype), grad, grad_h_n), bias


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


def _launch_wide(
    kernel: Any,
    tensors: tuple[Tensor | None, ...],
    cell: str,
    h: Tensor,
    config: WideConfig,
    steps: int,
    **more: bool,
) -> None:
    """Launch `steps` steps at once, or one after the other for each tile of units."""
    rows, time, heads, width = h.shape
    given = [_pointer(x) for x in tensors]
    tiles = -(-width // config.units) if config.spread else 1
    every = 1 if config.spread else steps
    with torch.cuda.device_of(h):
        for first in range(0, steps, every):
            kernel[(-(-rows // config.rows), heads, tiles)](
                *given,
                rows,
                time,
                heads,
                width,
                first,
                first + every,
                CELL=list(CELLS).index(cell),
                **more,
                BM=config.rows,
                DP=config.units,
                num_warps=config.warps,
                num_stages=config.stages,
                maxnreg=255,  # the compiler's own choice is too low for some cells
                enable_fp_fusion=True,
            )


def _pointer(x: Tensor | None) -> Tensor | None:
    if x is None:
        return None
    x = x.contiguous()
    return x.view(torch.uint8) if x.dtype == torch.bool else x
