"""The simple recurrent networks as torch.library operators: autograd, tracing, vmap."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rlmem.errors import unknown
from rlmem.kernels.native import check_shapes, check_tensors, widen
from rlmem.kernels.operator import define, refuse_autograd
from rlmem.kernels.simple_rnn import c_form, newton, torch_form
from rlmem.kernels.simple_rnn.cells import CELLS


def simple_rnn(
    cell: str,
    projected: Tensor,
    weight: Tensor,
    state: tuple[Tensor, ...],
    start: Tensor,
    scale: float = 1.0,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The outputs `h` [B, T, D] of `cell` for all t, and its state after the row.

    `cell` is one of (pre-activations and states in this order; equations in `cells.py`)

        elman, elman_relu    h           h        Elman 1990
        indrnn, indrnn_tanh  h           h        Li et al. 2018, arXiv 1803.04831
        mgu                  f, c        h        Zhou et al. 2016, arXiv 1603.09420
        lem                  1, 2, z, y  y, z     Rusch et al. 2022, arXiv 2110.04744
        paragru              z, r, c     h        Danieli et al. 2025, arXiv 2510.21450
        paralstm             f, o, z     h, c     the same

    `projected` [B, T, P D] is the input's contribution to the P pre-activations of D units, biases
    included. `weight` is [D, P D], or for `indrnn`, `paragru` and `paralstm` the diagonals of 1, 3
    and 5 matrices, [K D]; `state` holds tensors [B, D]; `start` [B, T] is bool; `scale` is the time
    step of `lem`, which the other cells ignore. `paragru` and `paralstm` run in C on the CPU, and
    `paragru` is solved by Newton's method on CUDA devices (`newton.py`).

    At a start, the state is not read: even a NaN in it has no effect on `h` or on any gradient.
    float32, float64 and bfloat16 (computed in float32), and under autocast float16; mixed dtypes
    are promoted. Differentiable once, in projected, weight and state. Raises `ValueError` if an
    argument has a wrong shape, dtype, layout or device.
    """
    projected, weight = widen(projected), widen(weight)
    _check(cell, projected, weight, state, start)
    given = [projected, weight, *state]
    dtype = reduce(torch.promote_types, (x.dtype for x in given), torch.float32)
    projected, weight, *leaves = (x.to(dtype) for x in given)
    states = rnn(cell, projected, weight, torch.cat(leaves, dim=-1), start, scale)
    h = states if len(leaves) == 1 else states[..., : leaves[0].shape[-1]]
    return h, tuple(s.clone() for s in states[:, -1].chunk(len(leaves), dim=-1))


def _check(
    cell: str, projected: Tensor, weight: Tensor, state: tuple[Tensor, ...], start: Tensor
) -> None:
    kind = CELLS.get(cell)
    if kind is None:
        raise unknown("cell", cell, CELLS)
    if len(state) != kind.states:
        raise ValueError(f"simple_rnn: {cell} has {kind.states} states, not {len(state)}")
    leaves: dict[str, Tensor | None] = {f"state[{i}]": each for i, each in enumerate(state)}
    others = {"projected": projected, "weight": weight, "start": start}
    check_tensors("simple_rnn", leaves | others)
    shape = projected.shape
    if len(shape) != 3 or 0 in shape or shape[2] % kind.parts:
        wanted = f"[B, T, {kind.parts} D], each at least 1"
        raise ValueError(f"simple_rnn: projected must be {wanted}, not {list(shape)}")
    rows, time, total = shape
    width = total // kind.parts
    check_shapes(
        "simple_rnn",
        {name: (each, (rows, width)) for name, each in leaves.items()}
        | {"weight": (weight, (kind.diagonals * width,) if kind.diagonals else (width, total))}
        | {"start": (start, (rows, time))},
    )


_FORWARD = (
    "(str cell, Tensor projected, Tensor weight, Tensor state, Tensor start, float scale) -> Tensor"
)
_BACKWARD = (
    "(str cell, Tensor grad, Tensor projected, Tensor weight, Tensor state, Tensor start, "
    "Tensor states, float scale) -> (Tensor, Tensor, Tensor)"
)


def _form(cell: str, x: Tensor) -> ModuleType:
    """The fastest form for rows like `x`."""
    if x.device.type == "cpu":
        return c_form if c_form.supports(cell, x) else torch_form
    return newton if newton.supports(cell, x) else torch_form


@define("simple_rnn", _FORWARD)
def rnn(
    cell: str, projected: Tensor, weight: Tensor, state: Tensor, start: Tensor, scale: float
) -> Tensor:
    """The states after each step, [B, T, S D]; `state` is [B, S D]; all have one dtype."""
    return _form(cell, projected).forward(cell, projected, weight, state, start, scale)


@define("simple_rnn_backward", _BACKWARD)
def rnn_backward(
    cell: str,
    grad: Tensor,
    projected: Tensor,
    weight: Tensor,
    state: Tensor,
    start: Tensor,
    states: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for projected, weight and the first state."""
    form = _form(cell, projected)
    return form.backward(cell, grad, projected, weight, state, start, states, scale)


@torch.library.register_fake(rnn)
def _rnn_fake(
    cell: str, projected: Tensor, weight: Tensor, state: Tensor, start: Tensor, scale: float
) -> Tensor:
    return projected.new_empty(*projected.shape[:2], state.shape[1])


@torch.library.register_fake(rnn_backward)
def _rnn_backward_fake(
    cell: str,
    grad: Tensor,
    projected: Tensor,
    weight: Tensor,
    state: Tensor,
    start: Tensor,
    states: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    new = (x.new_empty(x.shape) for x in (projected, weight, state))
    for_projected, for_weight, for_state = new
    return for_projected, for_weight, for_state


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.cell, *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return None, *rnn_backward(ctx.cell, grad, *ctx.saved_tensors, ctx.scale), None, None


torch.library.register_autograd(rnn, _backward, setup_context=_setup)
refuse_autograd(rnn_backward)

# Without this, the matrix products would run in bfloat16 under autocast.
for _device in ("cpu", "cuda"):
    torch.library.register_autocast(rnn, _device, torch.float32)
    torch.library.register_autocast(rnn_backward, _device, torch.float32)


def _vmap(op: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
    """Fold the mapped dimension into the rows; results have it in front.

    Rows share one weight and its gradient. So with mapped weights, and in the backward, examples
    are computed one by one.
    """
    size, mapped = info.batch_size, [dim is not None for dim in in_dims]
    args = tuple(
        x if dim is None else x.movedim(dim, 0) for x, dim in zip(args, in_dims, strict=True)
    )
    if op is rnn_backward or mapped[2]:
        each = [
            op(*(x[i] if m else x for x, m in zip(args, mapped, strict=True))) for i in range(size)
        ]
        if op is rnn_backward:
            return tuple(map(torch.stack, zip(*each, strict=True))), (0, 0, 0)
        return torch.stack(each), 0
    cell, weight, scale = args[0], args[2], args[-1]
    projected, state, start = (
        (args[i] if mapped[i] else args[i].expand(size, *args[i].shape)).flatten(0, 1)
        for i in (1, 3, 4)
    )
    return op(cell, projected, weight, state, start, scale).unflatten(0, (size, -1)), 0


torch.library.register_vmap(rnn, partial(_vmap, rnn))
torch.library.register_vmap(rnn_backward, partial(_vmap, rnn_backward))
