"""The short convolution and its backward as torch.library operators: autograd, tracing, vmap."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from rlmem.kernels.native import check_shapes, check_tensors, widen
from rlmem.kernels.operator import define_on_cpu, register_kernel
from rlmem.kernels.short_conv import c_form, torch_form


def short_conv(x: Tensor, weight: Tensor, bias: Tensor, window: Tensor, start: Tensor) -> Tensor:
    """`y[t] = bias + sum_j weight[:, W-1-j] x[t-j]` over the `t-j` in t's episode; `y` [B, T, D].

    `x` is [B, T, D], `weight` [D, W], `bias` [D]; `window` [B, W-1, D] holds the steps before the
    row, oldest first; `start` [B, T] is bool. Values before a start are not read: even a NaN has
    no effect on `y` or on any gradient.

    float32, float64 and bfloat16; mixed dtypes are promoted as in torch, and under autocast float16
    becomes float32. One pass forward and one backward: in Triton on CUDA devices, in C on the CPU
    for float32 and float64 with W up to 4; other cases run one torch operation per step of the
    filter. Differentiable in everything but `start`, any number of times. Raises `ValueError` if an
    argument has a wrong shape, dtype, layout or device.
    """
    x, weight, bias, window = widen(x), widen(weight), widen(bias), widen(window)
    _check(x, weight, bias, window, start)
    dtype = reduce(torch.promote_types, (weight.dtype, bias.dtype, window.dtype), x.dtype)
    return conv(x.to(dtype), weight.to(dtype), bias.to(dtype), window.to(dtype), start)


def _check(x: Tensor, weight: Tensor, bias: Tensor, window: Tensor, start: Tensor) -> None:
    named = {"x": x, "weight": weight, "bias": bias, "window": window, "start": start}
    check_tensors("short_conv", named)
    if x.dim() != 3 or 0 in x.shape:
        raise ValueError(f"short_conv: x must be [B, T, D], each at least 1, not {list(x.shape)}")
    rows, time, channels = x.shape
    if weight.dim() != 2 or weight.shape[0] != channels or weight.shape[1] < 1:
        raise ValueError(f"short_conv: weight must be [{channels}, W], not {list(weight.shape)}")
    shapes = {
        "bias": (bias, (channels,)),
        "window": (window, (rows, weight.shape[1] - 1, channels)),
        "start": (start, (rows, time)),
    }
    check_shapes("short_conv", shapes)


Grads = tuple[Tensor, Tensor, Tensor, Tensor]

_CONV = "(Tensor x, Tensor weight, Tensor bias, Tensor window, Tensor start) -> Tensor"
_BACKWARD = (
    "(Tensor grad_y, Tensor x, Tensor weight, Tensor window, Tensor start) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)


@define_on_cpu("short_conv", _CONV)
def conv(x: Tensor, weight: Tensor, bias: Tensor, window: Tensor, start: Tensor) -> Tensor:
    """`y` [B, T, D]; all arguments have one dtype."""
    return (c_form if c_form.supports(x, weight) else torch_form).forward(
        x, weight, bias, window, start
    )


@define_on_cpu("short_conv_backward", _BACKWARD)
def conv_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, window: Tensor, start: Tensor
) -> Grads:
    """Gradients for x, weight, bias and window."""
    return (c_form if c_form.supports(x, weight) else torch_form).backward(
        grad_y, x, weight, window, start
    )


@register_kernel(conv, "cuda")
def _conv_cuda(x: Tensor, *rest: Tensor) -> Tensor:
    from rlmem.kernels.short_conv import triton_form

    return triton_form.forward(x, *rest)


@register_kernel(conv_backward, "cuda")
def _conv_backward_cuda(grad_y: Tensor, *rest: Tensor) -> Grads:
    from rlmem.kernels.short_conv import triton_form

    return triton_form.backward(grad_y, *rest)


@torch.library.register_fake(conv)
def _conv_fake(x: Tensor, weight: Tensor, bias: Tensor, window: Tensor, start: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake(conv_backward)
def _conv_backward_fake(
    grad_y: Tensor, x: Tensor, weight: Tensor, window: Tensor, start: Tensor
) -> Grads:
    shapes = (x.shape, weight.shape, weight.shape[:1], window.shape)
    grad_x, grad_weight, grad_bias, grad_window = (x.new_empty(shape) for shape in shapes)
    return grad_x, grad_weight, grad_bias, grad_window


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    x, weight, _, window, start = inputs
    ctx.save_for_backward(x, weight, window, start)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    return *conv_backward(grad_y, *ctx.saved_tensors), None


torch.library.register_autograd(conv, _backward, setup_context=_setup)


def _setup_double(ctx: Any, inputs: tuple[Tensor, ...], output: Grads) -> None:
    ctx.save_for_backward(*inputs)


def _double_backward(
    ctx: Any, wrt_x: Tensor, wrt_weight: Tensor, wrt_bias: Tensor, wrt_window: Tensor
) -> tuple[Tensor | None, ...]:
    """Both sums below are convolutions C again, so their gradients are these operators.

    The gradients of C, weighted by `wrt_*` and summed, are <grad_y, C(wrt_x, weight, wrt_bias,
    wrt_window)> and, for the gradient of weight, <grad_y, C(x, wrt_weight, 0, window)>.
    """
    grad_y, x, weight, window, start = ctx.saved_tensors
    none = torch.zeros_like(wrt_bias)
    for_grad_y = conv(wrt_x, weight, wrt_bias, wrt_window, start)
    for_grad_y = for_grad_y + conv(x, wrt_weight, none, window, start)
    for_weight = conv_backward(grad_y, wrt_x, weight, wrt_window, start)[1]
    for_x, _, _, for_window = conv_backward(grad_y, x, wrt_weight, window, start)
    return for_grad_y, for_x, for_weight, for_window, None


torch.library.register_autograd(conv_backward, _double_backward, setup_context=_setup_double)


def _each(op: Callable[..., Any], size: int, args: list[tuple[Tensor, bool]]) -> list[Any]:
    return [op(*(x[i] if mapped else x for x, mapped in args)) for i in range(size)]


def _vmap(op: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], *args: Tensor) -> Any:
    """Fold the mapped dimension into the rows; results have it in front.

    Rows share one filter and one filter gradient, so mapped filters are computed one by one.
    """
    size = info.batch_size
    front = [
        (x, False) if dim is None else (x.movedim(dim, 0), True)
        for x, dim in zip(args, in_dims, strict=True)
    ]
    if op is conv_backward:
        each = _each(op, size, front)
        return tuple(map(torch.stack, zip(*each, strict=True))), (0, 0, 0, 0)
    if front[1][1] or front[2][1]:
        return torch.stack(_each(op, size, front)), 0
    x, window, start = (
        (each if mapped else each.expand(size, *each.shape)).flatten(0, 1)
        for each, mapped in (front[0], *front[3:])
    )
    y = op(x, args[1], args[2], window, start)
    return y.unflatten(0, (size, -1)), 0


torch.library.register_vmap(conv, partial(_vmap, conv))
torch.library.register_vmap(conv_backward, partial(_vmap, conv_backward))
