"""The short convolution and its backward as operators of torch: autograd, tracing, vmap."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rlmem.kernels.short_conv import cpu, plain

Grads = tuple[Tensor, Tensor, Tensor, Tensor]

_CONV = "(Tensor x, Tensor weight, Tensor bias, Tensor window, Tensor start) -> Tensor"
_BACKWARD = (
    "(Tensor grad_y, Tensor x, Tensor weight, Tensor window, Tensor start) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)
_define = partial(torch.library.custom_op, mutates_args=(), device_types="cpu")


@_define("rlmem::short_conv", schema=_CONV)
def conv(x: Tensor, weight: Tensor, bias: Tensor, window: Tensor, start: Tensor) -> Tensor:
    """`y` [B, T, D]; all of one dtype."""
    return (cpu if cpu.serves(x, weight) else plain).forward(x, weight, bias, window, start)


@_define("rlmem::short_conv_backward", schema=_BACKWARD)
def conv_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, window: Tensor, start: Tensor
) -> Grads:
    """Gradients for x, weight, bias and window."""
    return (cpu if cpu.serves(x, weight) else plain).backward(grad_y, x, weight, window, start)


conv.register_kernel("cuda")(plain.forward)
conv_backward.register_kernel("cuda")(plain.backward)


@conv.register_fake
def _conv_fake(x: Tensor, weight: Tensor, bias: Tensor, window: Tensor, start: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@conv_backward.register_fake
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


conv.register_autograd(_backward, setup_context=_setup)


def _setup_double(ctx: Any, inputs: tuple[Tensor, ...], output: Grads) -> None:
    ctx.save_for_backward(*inputs)


def _double_backward(
    ctx: Any, wrt_x: Tensor, wrt_weight: Tensor, wrt_bias: Tensor, wrt_window: Tensor
) -> tuple[Tensor | None, ...]:
    """Both sums below are convolutions C again, so their gradients are the operators themselves.

    The gradients of C, weighed by `wrt_*` and summed, are <grad_y, C(wrt_x, weight, wrt_bias,
    wrt_window)> and, for the one of weight, <grad_y, C(x, wrt_weight, 0, window)>.
    """
    grad_y, x, weight, window, start = ctx.saved_tensors
    none = torch.zeros_like(wrt_bias)
    for_grad_y = conv(wrt_x, weight, wrt_bias, wrt_window, start)
    for_grad_y = for_grad_y + conv(x, wrt_weight, none, window, start)
    for_weight = conv_backward(grad_y, wrt_x, weight, wrt_window, start)[1]
    for_x, _, _, for_window = conv_backward(grad_y, x, wrt_weight, window, start)
    return for_grad_y, for_x, for_weight, for_window, None


conv_backward.register_autograd(_double_backward, setup_context=_setup_double)


def _each(op: Callable[..., Any], size: int, args: list[tuple[Tensor, bool]]) -> list[Any]:
    return [op(*(x[i] if mapped else x for x, mapped in args)) for i in range(size)]


def _vmap(op: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], *args: Tensor) -> Any:
    """Fold the mapped dimension into the rows; results have it in front.

    A filter per example, or its gradient, has no place in the rows: there one goes after the other.
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


conv.register_vmap(partial(_vmap, conv))
conv_backward.register_vmap(partial(_vmap, conv_backward))
