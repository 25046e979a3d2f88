"""The delta rule and its backward as operators of torch: dispatch, autograd, tracing, vmap."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rlmem.kernels.delta_rule import chunked

Grads = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]

_RULE = (
    "(Tensor q, Tensor k, Tensor v, Tensor beta, Tensor? g, Tensor state, Tensor start) "
    "-> (Tensor, Tensor, Tensor)"
)
_BACKWARD = (
    "(Tensor grad_o, Tensor grad_last, Tensor q, Tensor k, Tensor v, Tensor beta, Tensor? g, "
    "Tensor state, Tensor start, Tensor o, Tensor last, Tensor kept) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
WIDEST = 128  # numbers of a key that a Triton kernel holds in registers

_define = partial(torch.library.custom_op, mutates_args=(), device_types="cpu")


@_define("rlmem::delta_rule", schema=_RULE)
def rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None,
    state: Tensor,
    start: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """`o` [B, T, H, V], the last state, and `kept`, which only the backward understands."""
    return chunked.forward(chunked.Row(q, k, v, beta, g, start), state)


@_define("rlmem::delta_rule_backward", schema=_BACKWARD)
def rule_backward(
    grad_o: Tensor,
    grad_last: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None,
    state: Tensor,
    start: Tensor,
    o: Tensor,
    last: Tensor,
    kept: Tensor,
) -> Grads:
    """Gradients for q, k, v, beta, g (empty where there is none) and the first state."""
    return chunked.backward(grad_o, grad_last, chunked.Row(q, k, v, beta, g, start), kept)


def has_kernel(k: Tensor) -> bool:
    """Whether the Triton kernels do this; elsewhere on a GPU the chunks of torch do."""
    return k.device.type == "cuda" and k.dtype == torch.float32 and k.shape[-1] <= WIDEST


@rule.register_kernel("cuda")
def _rule_cuda(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    from rlmem.kernels.delta_rule import gpu

    q, k, v, beta, g, state, start = inputs
    row = chunked.Row(q, k, v, beta, g, start)
    return (gpu if has_kernel(row.k) else chunked).forward(row, state)


@rule_backward.register_kernel("cuda")
def _rule_backward_cuda(grad_o: Tensor, grad_last: Tensor, *inputs: Any) -> Grads:
    from rlmem.kernels.delta_rule import gpu

    q, k, v, beta, g, state, start, o, last, kept = inputs
    row = chunked.Row(q, k, v, beta, g, start)
    if has_kernel(row.k):
        return gpu.backward(grad_o, grad_last, row, state, o, last, kept)
    return chunked.backward(grad_o, grad_last, row, kept)


@rule.register_fake
def _rule_fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None,
    state: Tensor,
    start: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, *size = state.shape
    kept = v.shape if has_kernel(k) else (rows, -(-k.shape[1] // chunked.CHUNK), *size)
    return v.new_empty(v.shape), state.new_empty(state.shape), state.new_empty(kept)


@rule_backward.register_fake
def _rule_backward_fake(
    grad_o: Tensor, grad_last: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    q, k, v, beta, g, *_ = rest
    shapes = [x.shape for x in (q, k, v, beta)] + [(0,) if g is None else g.shape, grad_last.shape]
    dq, dk, dv, d_beta, dg, d_state = (k.new_empty(shape) for shape in shapes)
    return dq, dk, dv, d_beta, dg, d_state


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*inputs, *output)


def _backward(
    ctx: Any, grad_o: Tensor, grad_last: Tensor, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    dq, dk, dv, d_beta, dg, d_state = rule_backward(grad_o, grad_last, *ctx.saved_tensors)
    return dq, dk, dv, d_beta, dg if ctx.saved_tensors[4] is not None else None, d_state, None


rule.register_autograd(_backward, setup_context=_setup)


def _vmap(op: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
    """Fold the mapped dimension into the rows; results have it in front."""
    size = info.batch_size

    def fold(x: Tensor | None, dim: int | None) -> Tensor | None:
        if x is None:
            return None
        return (x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)).flatten(0, 1)

    out = op(*map(fold, args, in_dims))
    unfolded = (x.unflatten(0, (size, -1)) if x.dim() > 1 else x.new_empty(size, 0) for x in out)
    return tuple(unfolded), (0,) * len(out)


rule.register_vmap(partial(_vmap, rule))
rule_backward.register_vmap(partial(_vmap, rule_backward))

# Without this the matrix products inside would run in bfloat16 under autocast.
for device in ("cpu", "cuda"):
    rule.register_autocast(device, torch.float32)
    rule_backward.register_autocast(device, torch.float32)
