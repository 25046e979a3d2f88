"""The delta rule and its backward as torch.library operators: autograd, tracing, vmap."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rlmem.kernels.delta_rule import torch_form
from rlmem.kernels.native import check_shapes, check_tensors, widen
from rlmem.kernels.operator import define_on_cpu, refuse_autograd, register_kernel


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None = None,
    state: Tensor | None = None,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Forget, write at a key, read at a query; `o` [B, T, H, V] and the last state [B, H, K, V].

    S' = exp(g[t]) S[t-1],   S[t] = S' + beta[t] k[t] (v[t] - S'^T k[t])^T,   o[t] = S[t]^T q[t]

    `q`, `k` are [B, T, H, K], `v` [B, T, H, V], `beta` [B, T, H]. `g` [B, T, H], the logarithm of
    the decay, is zero if not given, and so is the first `state`. At a `start` [B, T] (bool), the
    state before is zero and `g` is not read. With N writes per time step (DeltaProduct), `k`, `v`
    and `beta` are [B, T, N, H, ...]: forget, write N times in turn, read. The state stays bounded
    for unit keys, beta in [0, 2] and g <= 0; beta above 1 reverses the sign of the stored value.

    float32, float64, and bfloat16, which is computed in float32 and has float32 states; mixed
    dtypes are promoted as in torch, and under autocast float16 becomes float32. Values before a
    start are multiplied by zero: finite ones have no effect on outputs and gradients.
    Differentiable once, in everything but `start`. Raises `ValueError` if an argument has a wrong
    shape, dtype, layout or device. DeltaNet (arXiv 2406.06484), Gated DeltaNet (arXiv 2412.06464,
    equation 10), DeltaProduct (arXiv 2502.10297).
    """
    q, k, v, beta, g, state = widen(q), widen(k), widen(v), widen(beta), widen(g), widen(state)
    rows, time, heads, size = _check(q, k, v, beta, g, state, start)
    given = [x for x in (k, v, beta, g, state) if x is not None]
    dtype = reduce(torch.promote_types, (x.dtype for x in given), q.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    if state is None:
        state = k.new_zeros(rows, heads, size, v.shape[-1])
    if start is None:
        start = torch.zeros(rows, time, dtype=torch.bool, device=k.device)
    writes = 1 if k.dim() == 4 else k.shape[2]
    if k.dim() == 5:
        k, v, beta = (x.flatten(1, 2) for x in (k, v, beta))
    if writes > 1:
        # Reads happen at the last write of a time step, decays and resets at the first.
        q, g = spread(q, writes, last=True), None if g is None else spread(g, writes)
        start = spread(start, writes)
    parts = (None if x is None else x.to(wide) for x in (q, k, v, beta, g, state))
    o, after, _ = rule(*parts, start)
    return o[:, writes - 1 :: writes].to(dtype), after


def spread(x: Tensor, writes: int, last: bool = False) -> Tensor:
    """[B, T * writes, ...]: each step of `x` at its first write (or `last`), zeros elsewhere."""
    zeros = (writes - 1, 0) if last else (0, writes - 1)
    return F.pad(x.unsqueeze(2), (0, 0) * (x.dim() - 2) + zeros).flatten(1, 2)


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None,
    state: Tensor | None,
    start: Tensor | None,
) -> tuple[int, int, int, int]:
    """Check the arguments; returns B, T, H and K."""
    named = {"q": q, "k": k, "v": v, "beta": beta, "g": g, "state": state, "start": start}
    check_tensors("delta_rule", named)
    if q.dim() != 4 or 0 in q.shape:
        raise ValueError(
            f"delta_rule: q must be [B, T, H, K], each at least 1, not {list(q.shape)}"
        )
    rows, time, heads, size = q.shape
    if v.dim() not in (4, 5) or 0 in v.shape:
        raise ValueError(
            f"delta_rule: v must be [B, T, H, V] or [B, T, N, H, V], not {list(v.shape)}"
        )
    each = (rows, time, *([v.shape[2]] if v.dim() == 5 else []), heads)
    wanted = {
        "k": (k, (*each, size)),
        "v": (v, (*each, v.shape[-1])),
        "beta": (beta, each),
        "g": (g, (rows, time, heads)),
        "state": (state, (rows, heads, size, v.shape[-1])),
        "start": (start, (rows, time)),
    }
    check_shapes("delta_rule", wanted)
    return rows, time, heads, size


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
MAX_WIDTH = 128  # numbers of a key that a Triton kernel holds in registers


@define_on_cpu("delta_rule", _RULE)
def rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None,
    state: Tensor,
    start: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """`o` [B, T, H, V], the last state, and `kept`, an input of the backward."""
    return torch_form.forward(torch_form.Inputs(q, k, v, beta, g, start), state)


@define_on_cpu("delta_rule_backward", _BACKWARD)
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
    """Gradients for q, k, v, beta, g (empty if not given) and the first state."""
    return torch_form.backward(grad_o, grad_last, torch_form.Inputs(q, k, v, beta, g, start), kept)


def has_kernel(k: Tensor) -> bool:
    """Whether the Triton kernels support these keys; otherwise the torch form runs."""
    return k.device.type == "cuda" and k.dtype == torch.float32 and k.shape[-1] <= MAX_WIDTH


@register_kernel(rule, "cuda")
def _rule_cuda(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    from rlmem.kernels.delta_rule import triton_form

    q, k, v, beta, g, state, start = arguments
    inputs = torch_form.Inputs(q, k, v, beta, g, start)
    return (triton_form if has_kernel(inputs.k) else torch_form).forward(inputs, state)


@register_kernel(rule_backward, "cuda")
def _rule_backward_cuda(grad_o: Tensor, grad_last: Tensor, *arguments: Any) -> Grads:
    from rlmem.kernels.delta_rule import triton_form

    q, k, v, beta, g, state, start, o, last, kept = arguments
    inputs = torch_form.Inputs(q, k, v, beta, g, start)
    if has_kernel(inputs.k):
        return triton_form.backward(grad_o, grad_last, inputs, state, o, last, kept)
    return torch_form.backward(grad_o, grad_last, inputs, kept)


@torch.library.register_fake(rule)
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
    kept = v.shape if has_kernel(k) else (rows, -(-k.shape[1] // torch_form.CHUNK), *size)
    return v.new_empty(v.shape), state.new_empty(state.shape), state.new_empty(kept)


@torch.library.register_fake(rule_backward)
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
    # Checkpointing allows a single read of the saved tensors.
    saved = ctx.saved_tensors
    dq, dk, dv, d_beta, dg, d_state = rule_backward(grad_o, grad_last, *saved)
    return dq, dk, dv, d_beta, dg if saved[4] is not None else None, d_state, None


torch.library.register_autograd(rule, _backward, setup_context=_setup)
refuse_autograd(rule_backward)


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


torch.library.register_vmap(rule, partial(_vmap, rule))
torch.library.register_vmap(rule_backward, partial(_vmap, rule_backward))

# Without this, the matrix products would run in bfloat16 under autocast.
for device in ("cpu", "cuda"):
    torch.library.register_autocast(rule, device, torch.float32)
    torch.library.register_autocast(rule_backward, device, torch.float32)
