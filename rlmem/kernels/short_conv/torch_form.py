"""The short convolution in torch operations: on the CPU, where the C form does not apply."""

from __future__ import annotations

import torch
from torch import Tensor

from rlmem.kernels.short_conv.reference import short_conv_reference, taps


def forward(x: Tensor, weight: Tensor, bias: Tensor, window: Tensor, start: Tensor) -> Tensor:
    """Same as `c_form.forward`."""
    return short_conv_reference(x, weight, bias, window, start).contiguous()


def backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, window: Tensor, start: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Same as `c_form.backward`."""
    time, size = x.shape[1], weight.shape[1]
    row = torch.cat([window, x], dim=1)
    wide = torch.promote_types(x.dtype, torch.float32)
    grad_row = torch.zeros_like(row, dtype=wide)
    grad_weight = torch.zeros_like(weight, dtype=wide, memory_format=torch.contiguous_format)
    for at, alive in taps(start, size):
        grad = torch.where(alive[..., None], grad_y, 0).to(wide)
        past = torch.where(alive[..., None], row[:, at : at + time], 0)
        grad_row[:, at : at + time].addcmul_(grad, weight[:, at].to(wide))
        grad_weight[:, at] = (grad * past).sum((0, 1))
    grad_window, grad_x = (
        part.to(x.dtype, copy=True, memory_format=torch.contiguous_format)
        for part in grad_row.split([size - 1, time], dim=1)
    )
    grad_bias = grad_y.sum((0, 1), dtype=wide).to(x.dtype)
    return grad_x, grad_weight.to(x.dtype), grad_bias, grad_window
