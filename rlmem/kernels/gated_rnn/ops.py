"""The gated recurrent networks and their backward as operators: autograd, tracing, vmap."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rlmem.kernels.gated_rnn import cpu, plain, tiles
from rlmem.kernels.gated_rnn.cells import CELLS, PARTS

Results = tuple[Tensor, Tensor, Tensor, Tensor]

_FORWARD = (
    "(str cell, Tensor projected, Tensor weight, Tensor bias, Tensor state, Tensor? start, "
    "bool save) -> (Tensor, Tensor, Tensor, Tensor)"
)
_BACKWARD = (
    "(str cell, Tensor? grad_h, Tensor? grad_last, Tensor weight, Tensor state, Tensor? start, "
    "Tensor h, Tensor parts, Tensor kept) -> (Tensor, Tensor, Tensor, Tensor)"
)
_define = partial(torch.library.custom_op, mutates_args=(), device_types="cpu")


@_define("rlmem::gated_rnn", schema=_FORWARD)
def rnn(
    cell: str,
    projected: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor,
    start: Tensor | None,
    save: bool,
) -> Results:
    """`h`, the last state, parts and kept (see `plain.forward`); all of one dtype."""
    form = cpu if tiles.serves(projected) else plain
    return form.forward(cell, projected, weight, bias, state, start, save)


@_define("rlmem::gated_rnn_backward", schema=_BACKWARD)
def rnn_backward(
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
    """Gradients for projected, weight, bias and state."""
    form = cpu if tiles.serves(h) else plain
    return form.backward(cell, grad_h, grad_last, weight, state, start, h, parts, kept)


@rnn.register_kernel("cuda")
def _rnn_cuda(cell: str, projected: Tensor, weight: Tensor, *rest: Any) -> Results:
    return _cuda(projected, weight).forward(cell, projected, weight, *rest)


@rnn_backward.register_kernel("cuda")
def _rnn_backward_cuda(
    cell: str, grad_h: Tensor | None, grad_last: Tensor | None, weight: Tensor, *rest: Any
) -> Results:
    return _cuda(weight, weight).backward(cell, grad_h, grad_last, weight, *rest)


@rnn.register_fake
def _rnn_fake(
    cell: str,
    projected: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor,
    start: Tensor | None,
    save: bool,
) -> Results:
    width = weight.shape[1]
    h = projected.new_empty(*projected.shape[:-1], width)
    parts, kept = plain.saved(projected, weight, state, save)
    return h, state.new_empty(state.shape), parts, kept


@rnn_backward.register_fake
def _rnn_backward_fake(
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
    heads, width, _ = weight.shape
    return (
        h.new_empty(*h.shape[:-1], CELLS[cell].gates * width),
        weight.new_empty(weight.shape),
        weight.new_empty(heads, PARTS * width),
        state.new_empty(state.shape),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Results) -> None:
    ctx.cell, projected, weight, bias, state, start, saved = inputs
    h, _, parts, kept = output
    ctx.mark_non_differentiable(parts, kept)
    ctx.set_materialize_grads(False)
    # Where nobody foresaw a backward pass, what it reads is computed once more.
    again = () if saved else (projected, bias)
    ctx.save_for_backward(weight, state, start, h, parts, kept, *again)


def _backward(ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None, *_: None) -> Any:
    weight, state, start, h, parts, kept, *again = ctx.saved_tensors
    if again:
        projected, bias = again
        _, _, parts, kept = rnn(ctx.cell, projected, weight, bias, state, start, True)
    grads = rnn_backward(ctx.cell, grad_h, grad_last, weight, state, start, h, parts, kept)
    return None, *grads, None, None


rnn.register_autograd(_backward, setup_context=_setup)


def _vmap(op: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
    """Fold the mapped dimension into the rows; results have it in front.

    Weights per example, or gradients of them, have no place in the rows: there one example goes
    after the other.
    """
    size, mapped = info.batch_size, [dim is not None for dim in in_dims]
    args = tuple(
        x if dim is None else x.movedim(dim, 0) for x, dim in zip(args, in_dims, strict=True)
    )
    if op is rnn_backward or mapped[2] or mapped[3]:
        each = [
            op(*(x[i] if m else x for x, m in zip(args, mapped, strict=True))) for i in range(size)
        ]
        return tuple(map(torch.stack, zip(*each, strict=True))), (0, 0, 0, 0)
    folded = op(
        *(
            x
            if not isinstance(x, Tensor) or i in (2, 3)
            else (x if mapped[i] else x.expand(size, *x.shape)).flatten(0, 1)
            for i, x in enumerate(args)
        )
    )
    unfolded = (x.unflatten(0, (size, -1)) if x.dim() > 1 else x.new_empty(size, 0) for x in folded)
    return tuple(unfolded), (0, 0, 0, 0)


rnn.register_vmap(partial(_vmap, rnn))
rnn_backward.register_vmap(partial(_vmap, rnn_backward))


def _cuda(x: Tensor, weight: Tensor) -> ModuleType:
    """The form that serves CUDA tensors of this dtype and width."""
    from rlmem.kernels.gated_rnn import gpu

    return gpu if gpu.serves(x, weight) else plain
