"""The short convolution on CUDA devices: launches the Triton kernels, one forward, one backward."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlmem.kernels.short_conv import triton_kernels


class LaunchConfig(NamedTuple):
    """The block of one program, and its warps."""

    steps: int
    channels: int
    warps: int


# By bytes per number. A thread has 4 numbers of a block, or 2 of float64: more would spill.
CONFIGS = {
    2: LaunchConfig(32, 64, 16),
    4: LaunchConfig(32, 32, 8),
    8: LaunchConfig(16, 32, 8),
}
UNROLL = 4  # steps of the filter whose inputs are loaded at once


def launch_config(x: Tensor) -> LaunchConfig:
    """The settings for the dtype of `x`."""
    return CONFIGS[x.itemsize]


def forward(x: Tensor, weight: Tensor, bias: Tensor, window: Tensor, start: Tensor) -> Tensor:
    """Same as `torch_form.forward`; sums of bfloat16 are in float32."""
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    tensors = (x, weight, bias, window, start, y)
    _launch(triton_kernels.forward_kernel, tensors, y, weight, _programs(y, y.shape[1]))
    return y


def backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, window: Tensor, start: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Same as `torch_form.backward`; the order of all sums is fixed."""
    time, (channels, size) = x.shape[1], weight.shape
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    grad_window = torch.empty_like(window, memory_format=torch.contiguous_format)
    shares = _programs(x, time + size - 1)
    wide = torch.promote_types(x.dtype, torch.float32)
    sums = x.new_empty(shares, size + 1, channels, dtype=wide)
    tensors = (grad_y, x, weight, window, start, grad_x, grad_window, sums)
    _launch(triton_kernels.backward_kernel, tensors, x, weight, shares)
    total = sums.sum(0)
    # Copies: results of an operator may not share memory.
    grad_weight, grad_bias = weight.new_empty(weight.shape), weight.new_empty(channels)
    grad_weight.copy_(total[:size].flip(0).t())
    grad_bias.copy_(total[size])
    return grad_x, grad_weight, grad_bias, grad_window


def _programs(x: Tensor, positions: int) -> int:
    """The programs of each block of channels: blocks of positions of all rows."""
    steps: int = launch_config(x).steps
    return len(x) * -(-positions // steps)


def _launch(
    kernel: Any, tensors: tuple[Tensor, ...], x: Tensor, weight: Tensor, programs: int
) -> None:
    """Launch `programs` programs for each block of channels."""
    config = launch_config(x)
    _, time, channels = x.shape
    with torch.cuda.device_of(x):
        kernel[(programs * -(-channels // config.channels),)](
            *map(_pointer, tensors),
            time,
            channels,
            weight.shape[1],
            STEPS=config.steps,
            CHANNELS=config.channels,
            UNROLL=UNROLL,
            num_warps=config.warps,
            enable_fp_fusion=True,
        )


def _pointer(x: Tensor) -> Tensor:
    x = x.contiguous()
    return x.view(torch.uint8) if x.dtype == torch.bool else x
