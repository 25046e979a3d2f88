"""Matrix memory and its backward as operators of torch: dispatch, autograd, tracing, vmap."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rlmem.kernels.matrix_memory import cpu

_define = partial(torch.library.custom_op, mutates_args=(), device_types=("cpu", "cuda"))
_READ = (
    "(Tensor q, Tensor k, Tensor v, Tensor? i, Tensor lf, Tensor? state, Tensor? m0, "
    "Tensor? start, str normalizer, float eps) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_BACKWARD = (
    "(Tensor grad_h, Tensor? grad_last, Tensor? grad_m, Tensor q, Tensor k, Tensor v, Tensor? i, "
    "Tensor lf, Tensor? m0, Tensor? start, Tensor h, Tensor last, Tensor m, Tensor norm, "
    "Tensor states, str normalizer, float eps) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Seven = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _form(x: Tensor) -> ModuleType:
    """What serves such tensors: in float64 the matrix products of torch everywhere."""
    if x.device.type != "cuda" or x.dtype == torch.float64:
        return cpu
    from rlmem.kernels.matrix_memory import gpu

    return gpu


@_define("rlmem::matrix_memory", schema=_READ)
def read(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor | None,
    lf: Tensor,
    state: Tensor | None,
    m0: Tensor | None,
    start: Tensor | None,
    normalizer: str,
    eps: float,
) -> Five:
    """A `cpu.Saved`. q, k, v are of one dtype, the rest of theirs or float32, whichever is wider.

    `state` [B, H, K, V'] has the normaliser's n as its last column, where there is one.
    """
    arguments = (q, k, v, i, lf, state, m0, start, normalizer, eps)
    with torch.autocast(q.device.type, enabled=False):
        h, last, m, norm, states = _form(q).forward(*arguments)
    return h, last, m, norm, states


@_define("rlmem::matrix_memory_backward", schema=_BACKWARD)
def read_backward(
    grad_h: Tensor,
    grad_last: Tensor | None,
    grad_m: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor | None,
    lf: Tensor,
    m0: Tensor | None,
    start: Tensor | None,
    h: Tensor,
    last: Tensor,
    m: Tensor,
    norm: Tensor,
    states: Tensor,
    normalizer: str,
    eps: float,
) -> Seven:
    """A `cpu.Grads`; those for i and m0 are empty where there is no i."""
    saved = cpu.Saved(h, last, m, norm, states)
    arguments = (grad_h, grad_last, grad_m, q, k, v, i, lf, m0, start, saved, normalizer, eps)
    with torch.autocast(q.device.type, enabled=False):
        grads = _form(q).backward(*arguments)
    into_q, into_k, into_v, into_i, into_lf, into_state, into_m0 = (
        lf.new_empty(0) if each is None else each for each in grads
    )
    return into_q, into_k, into_v, into_i, into_lf, into_state, into_m0


@read.register_fake
def _read_fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor | None,
    lf: Tensor,
    state: Tensor | None,
    m0: Tensor | None,
    start: Tensor | None,
    normalizer: str,
    eps: float,
) -> Five:
    rows, time, heads, keys = q.shape
    columns = v.shape[-1] + (normalizer != "none")
    chunk = _form(q).CHUNK
    return (
        v.new_empty(v.shape),
        lf.new_empty(rows, heads, keys, columns),
        lf.new_empty(lf.shape if i is not None else (0,)),
        lf.new_empty(lf.shape if normalizer != "none" else (0,)),
        lf.new_empty(rows, (time + chunk - 1) // chunk, heads, keys, columns),
    )


@read_backward.register_fake
def _read_backward_fake(
    grad_h: Tensor,
    grad_last: Tensor | None,
    grad_m: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor | None,
    lf: Tensor,
    m0: Tensor | None,
    start: Tensor | None,
    h: Tensor,
    last: Tensor,
    *saved: Any,
) -> Seven:
    gate = lf.shape if i is not None else (0,)
    first = (lf.shape[0], lf.shape[2]) if i is not None else (0,)
    shapes = (gate, lf.shape, last.shape, first)
    into_i, into_lf, into_state, into_m0 = (lf.new_empty(shape) for shape in shapes)
    into_q, into_k, into_v = (x.new_empty(x.shape) for x in (q, k, v))
    return into_q, into_k, into_v, into_i, into_lf, into_state, into_m0


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Five) -> None:
    q, k, v, i, lf, state, m0, start, ctx.normalizer, ctx.eps = inputs
    ctx.given = tuple(x is not None for x in (i, state, m0))
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, i, lf, m0, start, *output)


def _backward(ctx: Any, grad_h: Tensor | None, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    """Only h, the state and m can have a gradient: what else is returned is for this function."""
    q, k, v, i, lf, m0, start, h, *saved = ctx.saved_tensors
    grad_h = torch.zeros_like(h) if grad_h is None else grad_h
    grad_last, grad_m = grads[:2]
    arguments = (q, k, v, i, lf, m0, start, h, *saved, ctx.normalizer, ctx.eps)
    into = read_backward(grad_h, grad_last, None if i is None else grad_m, *arguments)
    into_q, into_k, into_v, into_i, into_lf, into_state, into_m0 = into
    given_i, given_state, given_m0 = ctx.given
    return (
        *(into_q, into_k, into_v, into_i if given_i else None, into_lf),
        *(into_state if given_state else None, into_m0 if given_m0 else None),
        *(None, None, None),
    )


read.register_autograd(_backward, setup_context=_setup)


def _vmap(op: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
    """Fold the mapped dimension into the rows; results have it in front."""
    size = info.batch_size

    def fold(x: Any, dim: int | None) -> Any:
        if not isinstance(x, Tensor) or (dim is None and x.numel() == 0):
            return x
        x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
        return x.flatten(0, 1)

    folded = op(*map(fold, args, in_dims))
    out = tuple(x.unflatten(0, (size, -1)) if x.numel() else x.new_empty(size, 0) for x in folded)
    return out, (0,) * len(out)


read.register_vmap(partial(_vmap, read))
read_backward.register_vmap(partial(_vmap, read_backward))
