"""The gated recurrent networks as torch.library operators: autograd, tracing, vmap."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rlmem.errors import unknown
from rlmem.kernels.gated_rnn import c_form, tiles, torch_form
from rlmem.kernels.gated_rnn.cells import CELLS, PER_UNIT
from rlmem.kernels.native import check_shapes, check_tensors, widen
from rlmem.kernels.operator import define_on_cpu, refuse_autograd, register_kernel


def gated_rnn(
    cell: str,
    projected: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    state: tuple[Tensor, ...] | None = None,
    start: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The outputs `h` [B, T, H, D] of `cell` for all t, and its state after the row.

    `cell` is one of (gates and states in this order; equations in `cells.py`)

        gru        r, z, n     h           Cho et al. 2014, in the form of torch.nn.GRU
        lstm       i, f, g, o  h, c        Hochreiter and Schmidhuber 1997, as in torch.nn.LSTM
        slstm      i, f, z, o  h, c, n, m  Beck et al. 2024, arXiv 2405.04517, sigmoid forget gate
        slstm_exp  i, f, z, o  h, c, n, m  the same with an exponential forget gate

    `projected` [B, T, H, G D] is the input's contribution to the G gates of D units in each of H
    heads. The state's contribution is `h[t-1] @ weight` per head, with `weight` [H, D, G D].
    `bias` [H, 4 D] is added to the gates; the GRU's four biases are for r, z, n and for the state's
    contribution to n before it is multiplied by r. `state` holds tensors [B, H, D], zero if not
    given; `start` [B, T] is bool. An sLSTM with n = 0 is in its initial state: no stabiliser.

    At a start, the state is not read: even a NaN in it has no effect on `h` or on any gradient.
    float32, float64 and bfloat16 (computed in float32), and under autocast float16; mixed dtypes
    are promoted. Under autocast to bfloat16 on CUDA devices and CPUs with AVX512-BF16, factors of
    products are rounded; sums and states stay float32. Differentiable once, in everything but
    `start`. Raises `ValueError` if an argument has a wrong shape, dtype, layout or device.
    """
    projected, weight, bias = widen(projected), widen(weight), widen(bias)
    _check(cell, projected, weight, bias, state, start)
    rows, _, heads, _ = projected.shape
    width = weight.shape[1]
    if bias is None:
        bias = weight.new_zeros(heads, PER_UNIT * width)
    if state is None:
        state = (projected.new_zeros(rows, heads, width),) * CELLS[cell].states
    given = [projected, weight, bias, *state]
    dtype = reduce(torch.promote_types, (x.dtype for x in given), torch.float32)
    products = torch.bfloat16 if _in_bf16_on_cuda(projected, dtype) else dtype
    projected, weight = projected.to(products), weight.to(products)
    bias, *states = (x.to(dtype) for x in given[2:])
    first = torch.stack(states, dim=1)
    save = torch.is_grad_enabled() and any(
        x.requires_grad for x in (projected, weight, bias, first)
    )
    narrow = _products_in_bf16(projected)
    h, last, _, _ = rnn(cell, projected, weight, bias, first, start, save, narrow)
    return h, tuple(s.clone() for s in last.unbind(1))


def _products_in_bf16(projected: Tensor) -> bool:
    """Whether autocast asks for products of bfloat16, and C computes them."""
    return (
        torch.is_autocast_enabled("cpu")
        and projected.device.type == "cpu"
        and c_form.narrow_available(projected)
        and torch.get_autocast_dtype("cpu") is torch.bfloat16
    )


def _check(
    cell: str,
    projected: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: tuple[Tensor, ...] | None,
    start: Tensor | None,
) -> None:
    if cell not in CELLS:
        raise unknown("cell", cell, CELLS)
    kind = CELLS[cell]
    named = {"projected": projected, "weight": weight, "bias": bias, "start": start}
    states = {f"state[{i}]": each for i, each in enumerate(() if state is None else state)}
    check_tensors("gated_rnn", named | states)
    if projected.dim() != 4 or 0 in projected.shape or projected.shape[-1] % kind.gates:
        raise ValueError(
            f"gated_rnn: projected must be [B, T, H, {kind.gates} D], each at least 1, "
            f"not {list(projected.shape)}"
        )
    if state is not None and len(state) != kind.states:
        raise ValueError(
            f"gated_rnn: state of {cell} must be {kind.states} tensors, not {len(state)}"
        )
    rows, time, heads, total = projected.shape
    width = total // kind.gates
    wanted: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        name: (each, (rows, heads, width)) for name, each in states.items()
    }
    wanted["weight"] = weight, (heads, width, total)
    wanted["bias"] = bias, (heads, PER_UNIT * width)
    wanted["start"] = start, (rows, time)
    check_shapes("gated_rnn", wanted)


Results = tuple[Tensor, Tensor, Tensor, Tensor]

_FORWARD = (
    "(str cell, Tensor projected, Tensor weight, Tensor bias, Tensor state, Tensor? start, "
    "bool save, bool narrow=False) -> (Tensor, Tensor, Tensor, Tensor)"
)
_BACKWARD = (
    "(str cell, Tensor? grad_h, Tensor? grad_last, Tensor weight, Tensor state, Tensor? start, "
    "Tensor h, Tensor activations, Tensor saved_states, bool narrow=False) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)


@define_on_cpu("gated_rnn", _FORWARD)
def rnn(
    cell: str,
    projected: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor,
    start: Tensor | None,
    save: bool,
    narrow: bool = False,
) -> Results:
    """`h`, the last state, activations and saved states (see `torch_form.forward`); one dtype."""
    given = cell, projected, weight, bias, state, start, save
    if narrow and c_form.narrow_available(projected):
        return c_form.forward(*given, narrow=True)
    form = c_form if tiles.supports(projected) else torch_form
    return form.forward(*given)


@define_on_cpu("gated_rnn_backward", _BACKWARD)
def rnn_backward(
    cell: str,
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    weight: Tensor,
    state: Tensor,
    start: Tensor | None,
    h: Tensor,
    activations: Tensor,
    saved_states: Tensor,
    narrow: bool = False,
) -> Results:
    """Gradients for projected, weight, bias and state."""
    given = cell, grad_h, grad_last, weight, state, start, h, activations, saved_states
    if narrow and c_form.narrow_available(h):
        return c_form.backward(*given, narrow=True)
    form = c_form if tiles.supports(h) else torch_form
    return form.backward(*given)


@register_kernel(rnn, "cuda")
def _rnn_cuda(cell: str, projected: Tensor, weight: Tensor, *rest: Any) -> Results:
    return _cuda_form(weight).forward(cell, projected, weight, *rest)


@register_kernel(rnn_backward, "cuda")
def _rnn_backward_cuda(
    cell: str, grad_h: Tensor | None, grad_last: Tensor | None, weight: Tensor, *rest: Any
) -> Results:
    return _cuda_form(weight).backward(cell, grad_h, grad_last, weight, *rest)


@torch.library.register_fake(rnn)
def _rnn_fake(
    cell: str,
    projected: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor,
    start: Tensor | None,
    save: bool,
    narrow: bool = False,
) -> Results:
    width = weight.shape[1]
    h = state.new_empty(*projected.shape[:-1], width)
    activations, saved_states = torch_form.allocate_saved(projected, weight, state, save)
    return h, state.new_empty(state.shape), activations, saved_states


@torch.library.register_fake(rnn_backward)
def _rnn_backward_fake(
    cell: str,
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    weight: Tensor,
    state: Tensor,
    start: Tensor | None,
    h: Tensor,
    activations: Tensor,
    saved_states: Tensor,
    narrow: bool = False,
) -> Results:
    heads, width, _ = weight.shape
    return (
        weight.new_empty(*h.shape[:-1], CELLS[cell].gates * width),
        weight.new_empty(weight.shape),
        state.new_empty(heads, PER_UNIT * width),
        state.new_empty(state.shape),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Results) -> None:
    ctx.cell, projected, weight, bias, state, start, saved, *rest = inputs
    ctx.narrow, ctx.count = (*rest, False)[0], len(inputs)
    h, _, activations, saved_states = output
    ctx.mark_non_differentiable(activations, saved_states)
    ctx.set_materialize_grads(False)
    # If no backward pass was expected, its inputs are computed again.
    again = () if saved else (projected, bias)
    ctx.save_for_backward(weight, state, start, h, activations, saved_states, *again)


def _backward(ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None, *_: None) -> Any:
    weight, state, start, h, activations, saved_states, *again = ctx.saved_tensors
    if again:
        projected, bias = again
        _, _, activations, saved_states = rnn(
            ctx.cell, projected, weight, bias, state, start, True, ctx.narrow
        )
    grads = rnn_backward(
        ctx.cell, grad_h, grad_last, weight, state, start, h, activations, saved_states, ctx.narrow
    )
    return None, *grads, *[None] * (ctx.count - 5)


torch.library.register_autograd(rnn, _backward, setup_context=_setup)
refuse_autograd(rnn_backward)


def _vmap(op: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
    """Fold the mapped dimension into the rows; results have it in front.

    Rows share the weights and their gradients, so with mapped weights, and in the backward,
    examples are computed one by one.
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


torch.library.register_vmap(rnn, partial(_vmap, rnn))
torch.library.register_vmap(rnn_backward, partial(_vmap, rnn_backward))


def _in_bf16_on_cuda(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether autocast rounds the factors of products of this dtype, which Triton does."""
    return (
        x.device.type == "cuda"
        and dtype == torch.float32
        and torch.is_autocast_enabled("cuda")
        and torch.get_autocast_dtype("cuda") == torch.bfloat16
    )


def _cuda_form(weight: Tensor) -> ModuleType:
    """The form for CUDA tensors of this dtype."""
    from rlmem.kernels.gated_rnn import triton_form

    return triton_form if triton_form.supports(weight) else torch_form
