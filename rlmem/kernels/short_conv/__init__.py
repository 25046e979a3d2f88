"""The short causal convolution, a filter per channel."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from rlmem.kernels.short_conv.ops import conv
from rlmem.kernels.short_conv.reference import short_conv_reference

__all__ = ["short_conv", "short_conv_reference"]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def short_conv(x: Tensor, weight: Tensor, bias: Tensor, window: Tensor, start: Tensor) -> Tensor:
    """`y[t] = bias + sum_j weight[:, W-1-j] x[t-j]` over those `t-j` of t's episode; `y` [B, T, D].

    `x` is [B, T, D], `weight` [D, W], `bias` [D]; `window` [B, W-1, D] holds the steps before the
    row, oldest first; `start` [B, T] is bool. What lies before a start is not read: be it NaN, it
    leaves no trace in `y` or in any gradient.

    float32, float64 and bfloat16, mixed ones promoted as torch does. On the CPU float32 and float64
    with W up to 4 are one pass in C, forward and backward; all else, CUDA too, is an operation of
    torch per step of the filter. Differentiable in all but start, any number of times. A ValueError
    says what is wrong with the arguments.
    """
    _check(x, weight, bias, window, start)
    dtype = reduce(torch.promote_types, (weight.dtype, bias.dtype, window.dtype), x.dtype)
    return conv(x.to(dtype), weight.to(dtype), bias.to(dtype), window.to(dtype), start)


def _check(x: Tensor, weight: Tensor, bias: Tensor, window: Tensor, start: Tensor) -> None:
    if x.dim() != 3 or 0 in x.shape:
        raise ValueError(f"short_conv: x must be [B, T, D], each at least 1, not {list(x.shape)}")
    rows, time, channels = x.shape
    if weight.dim() != 2 or weight.shape[0] != channels or weight.shape[1] < 1:
        raise ValueError(f"short_conv: weight must be [{channels}, W], not {list(weight.shape)}")
    named = {"x": x, "weight": weight, "bias": bias, "window": window}
    for name, each in named.items():
        if each.dtype not in _DTYPES:
            raise ValueError(f"short_conv: {name} is {each.dtype}; allowed are {_DTYPES}")
    shapes = {
        "bias": (bias, [channels]),
        "window": (window, [rows, weight.shape[1] - 1, channels]),
        "start": (start, [rows, time]),
    }
    for name, (each, shape) in shapes.items():
        if list(each.shape) != shape:
            raise ValueError(f"short_conv: {name} must be {shape}, not {list(each.shape)}")
    if start.dtype != torch.bool:
        raise ValueError(f"short_conv: start must be torch.bool, not {start.dtype}")
    devices = {name: str(each.device) for name, each in (named | {"start": start}).items()}
    if len(set(devices.values())) > 1:
        raise ValueError(f"short_conv: all tensors must be on one device, not {devices}")
