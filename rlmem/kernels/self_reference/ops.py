"""The self-referential weight matrix as torch.library operators: autograd, tracing, vmap."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from rlmem.kernels.native import check_shapes, check_tensors, widen
from rlmem.kernels.operator import define_on_cpu, refuse_autograd, register_kernel
from rlmem.kernels.self_reference import c_form, torch_form
from rlmem.kernels.self_reference.reference import RATES


def self_reference(
    x: Tensor, weight: Tensor, change: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """The outputs y [B, T, H, Y] of matrices W that change themselves, and the last `change`.

    W = weight + change;   [y; q; k; b] = W x
    change' = change + s(b) (W softmax(q) - W softmax(k)) softmax(k)^T

    `x` is [B, T, H, D], `weight` [H, Y + 2 D + 4, D] with Y at least 1. `change`, the sum of the
    changes since the episode began, is [B, H, Y + 2 D + 4, D]. b has a learning rate for the rows
    of y, q, k and b each. At a `start` [B, T] (bool), the change is not read: even a NaN in it has
    no effect on y or on any gradient.

    float32, float64, and bfloat16 (computed in float32); under autocast float16 becomes float32;
    mixed dtypes are promoted. Differentiable once, in x, weight and change. Raises `ValueError` if
    an argument has a wrong shape, dtype, layout or device. Irie et al. 2022, arXiv 2202.05780.
    """
    x, weight, change = widen(x), widen(weight), widen(change)
    _check(x, weight, change, start)
    dtype = reduce(torch.promote_types, (x.dtype, weight.dtype, change.dtype), torch.float32)
    y, after, _ = loop(x.to(dtype), weight.to(dtype), change.to(dtype), start)
    return y, after


def _check(x: Tensor, weight: Tensor, change: Tensor, start: Tensor) -> None:
    named = {"x": x, "weight": weight, "change": change, "start": start}
    check_tensors("self_reference", named)
    if x.dim() != 4 or 0 in x.shape:
        raise ValueError(
            f"self_reference: x must be [B, T, H, D], each at least 1, not {list(x.shape)}"
        )
    rows, time, heads, size = x.shape
    least = 2 * size + RATES + 1
    if weight.dim() != 3 or weight.shape[1] < least:
        raise ValueError(
            f"self_reference: weight must be [{heads}, {least} or more, {size}], "
            f"not {list(weight.shape)}"
        )
    shape = (heads, weight.shape[1], size)
    wanted = {"weight": (weight, shape), "change": (change, (rows, *shape))}
    check_shapes("self_reference", wanted | {"start": (start, (rows, time))})


_FORWARD = "(Tensor x, Tensor weight, Tensor change, Tensor start) -> (Tensor, Tensor, Tensor)"
_BACKWARD = (
    "(Tensor grad_y, Tensor grad_change, Tensor x, Tensor weight, Tensor start, Tensor kept) "
    "-> (Tensor, Tensor, Tensor)"
)

Three = tuple[Tensor, Tensor, Tensor]


@define_on_cpu("self_reference", _FORWARD)
def loop(x: Tensor, weight: Tensor, change: Tensor, start: Tensor) -> Three:
    """y, the last change, and the matrices before each chunk [B, N, H, R, D]; one dtype."""
    return (c_form if c_form.supports(x) else torch_form).forward(x, weight, change, start)


@define_on_cpu("self_reference_backward", _BACKWARD)
def loop_backward(
    grad_y: Tensor, grad_change: Tensor, x: Tensor, weight: Tensor, start: Tensor, kept: Tensor
) -> Three:
    """Gradients for x, weight and the first change."""
    form = c_form if c_form.supports(x) else torch_form
    return form.backward(grad_y, grad_change, x, weight, start, kept)


register_kernel(loop, "cuda")(torch_form.forward)
register_kernel(loop_backward, "cuda")(torch_form.backward)


@torch.library.register_fake(loop)
def _loop_fake(
    x: Tensor, weight: Tensor, change: Tensor, start: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    rows, time, heads, size = x.shape
    y = x.new_empty(rows, time, heads, weight.shape[1] - 2 * size - RATES)
    chunks = (time + torch_form.CHUNK - 1) // torch_form.CHUNK
    return y, change.new_empty(change.shape), x.new_empty(rows, chunks, *weight.shape)


@torch.library.register_fake(loop_backward)
def _loop_backward_fake(
    grad_y: Tensor, grad_change: Tensor, x: Tensor, weight: Tensor, start: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    for_x, for_weight, for_change = (a.new_empty(a.shape) for a in (x, weight, grad_change))
    return for_x, for_weight, for_change


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, _, start = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(x, weight, start, output[2])


def _backward(
    ctx: Any, grad_y: Tensor, grad_change: Tensor, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    return *loop_backward(grad_y, grad_change, *ctx.saved_tensors), None


torch.library.register_autograd(loop, _backward, setup_context=_setup)
refuse_autograd(loop_backward)

# Without this, the matrix products would run in bfloat16 under autocast.
for _device in ("cpu", "cuda"):
    torch.library.register_autocast(loop, _device, torch.float32)
    torch.library.register_autocast(loop_backward, _device, torch.float32)


def _vmap(op: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
    """Fold the mapped dimension into the rows; results have it in front.

    Rows share the weight and its gradient. So with mapped weights, and in the backward, examples
    are computed one by one.
    """
    size = info.batch_size
    weight_at = 3 if op is loop_backward else 1
    moved = [
        x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(args, in_dims, strict=True)
    ]
    if op is loop_backward or in_dims[weight_at] is not None:
        each = [op(*example) for example in zip(*moved, strict=True)]
        return tuple(map(torch.stack, zip(*each, strict=True))), (0, 0, 0)
    x, _, change, start = (each.flatten(0, 1) for each in moved)
    folded = op(x, args[1], change, start)
    return tuple(each.unflatten(0, (size, -1)) for each in folded), (0, 0, 0)


torch.library.register_vmap(loop, partial(_vmap, loop))
torch.library.register_vmap(loop_backward, partial(_vmap, loop_backward))
