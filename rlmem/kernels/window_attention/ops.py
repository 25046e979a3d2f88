"""Window attention and its backward as operators of torch: autograd, tracing."""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rlmem.kernels.window_attention import blocks

Grads = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]

_INPUTS = "Tensor query, Tensor key, Tensor value, Tensor at, Tensor relative, Tensor segment"
_ATTEND = f"({_INPUTS}) -> (Tensor, Tensor)"
_BACKWARD = (
    f"(Tensor grad_y, Tensor y, Tensor log_sum, {_INPUTS}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
WIDEST = 128  # numbers of a key or a value that a Triton kernel holds in registers
_define = partial(torch.library.custom_op, mutates_args=())


@_define("rlmem::window_attention", schema=_ATTEND)
def attend(
    query: Tensor, key: Tensor, value: Tensor, at: Tensor, relative: Tensor, segment: Tensor
) -> tuple[Tensor, Tensor]:
    """`y` [B, T, H, E] and the logarithm of the weights' sums [B, H, T]."""
    return blocks.forward(query, key, value, at, relative, segment)


@_define("rlmem::window_attention_backward", schema=_BACKWARD)
def attend_backward(
    grad_y: Tensor,
    y: Tensor,
    log_sum: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    at: Tensor,
    relative: Tensor,
    segment: Tensor,
) -> Grads:
    """Gradients for query, key, value, at and relative."""
    return blocks.backward(grad_y, y, log_sum, query, key, value, at, relative, segment)


def _form(query: Tensor, value: Tensor) -> ModuleType:
    """What does this on a GPU: the Triton kernels, or the blocks of torch for what they lack."""
    from rlmem.kernels.window_attention import gpu

    narrow = max(query.shape[-1], value.shape[-1]) <= WIDEST
    return gpu if query.dtype == torch.float32 and narrow else blocks


@attend.register_kernel("cuda")
def _attend_cuda(
    query: Tensor, key: Tensor, value: Tensor, at: Tensor, relative: Tensor, segment: Tensor
) -> tuple[Tensor, Tensor]:
    return _form(query, value).forward(query, key, value, at, relative, segment)


@attend_backward.register_kernel("cuda")
def _attend_backward_cuda(grad_y: Tensor, y: Tensor, log_sum: Tensor, *inputs: Tensor) -> Grads:
    return _form(inputs[0], inputs[2]).backward(grad_y, y, log_sum, *inputs)


@attend.register_fake
def _attend_fake(
    query: Tensor, key: Tensor, value: Tensor, at: Tensor, relative: Tensor, segment: Tensor
) -> tuple[Tensor, Tensor]:
    rows, time, heads, _ = query.shape
    return query.new_empty(rows, time, heads, value.shape[3]), query.new_empty(rows, heads, time)


@attend_backward.register_fake
def _attend_backward_fake(
    grad_y: Tensor, y: Tensor, log_sum: Tensor, *inputs: Tensor
) -> tuple[Tensor, ...]:
    return tuple(each.new_empty(each.shape) for each in inputs[:5])


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output, *inputs)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad_y: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *attend_backward(grad_y, *ctx.saved_tensors), None


attend.register_autograd(_backward, setup_context=_setup)

# Without this the matrix products inside would run in bfloat16 under autocast.
for _device in ("cpu", "cuda"):
    attend.register_autocast(_device, torch.float32)
    attend_backward.register_autocast(_device, torch.float32)
