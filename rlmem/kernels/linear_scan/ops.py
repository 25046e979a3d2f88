"""The linear scan and its backward as torch.library operators: autograd, tracing, vmap."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rlmem.kernels import native
from rlmem.kernels.linear_scan import c_form, torch_form
from rlmem.kernels.native import check_shapes, check_tensors, widen
from rlmem.kernels.operator import define_on_cpu, register_kernel

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.complex128)


def linear_scan(
    gate: Tensor,
    value: Tensor,
    h0: Tensor | None = None,
    start: Tensor | None = None,
    *,
    reverse: bool = False,
) -> Tensor:
    """`h[t] = gate[t] * (0 if start[t] else h[t-1]) + value[t]`, with `h[-1] = h0`; `h` [B, T, D].

    `value` is [B, T, D], `h0` [B, D] (zero if not given), `start` [B, T] bool. `gate` is [B, T, D]
    or, for a gate that is constant over rows and time, [D]; the latter is never expanded, forward
    or backward. Any other shape that broadcasts to [B, T, D] is expanded. With `reverse` time runs
    from T-1 to 0: `h[t] = gate[t] * (0 if start[t] else h[t+1]) + value[t]`, with `h[T] = h0`.

    At a start, the gate and the state before are not read: even a NaN in them has no effect on `h`
    or on any gradient. float32, float64, bfloat16 (accumulated in float32), complex64 and
    complex128; mixed dtypes are promoted as in torch, and under autocast float16 becomes float32.
    Differentiable in gate, value and h0, any number of times. Raises `ValueError` if an argument
    has a wrong shape, dtype, layout or device.
    """
    gate, value, h0 = widen(gate), widen(value), widen(h0)
    _check(gate, value, h0, start)
    dtype = torch.promote_types(gate.dtype, value.dtype)
    if h0 is not None:
        dtype = torch.promote_types(dtype, h0.dtype)
        h0 = h0.to(dtype)
    return scan(_as_kernel_reads(gate, value).to(dtype), value.to(dtype), h0, start, reverse)


def _as_kernel_reads(gate: Tensor, value: Tensor) -> Tensor:
    """[D] if the gate is constant over rows and time, else [B, T, D]."""
    if all(size == 1 for size in gate.shape[:-1]):
        return gate.reshape(-1).expand(value.shape[-1])
    return gate.expand(value.shape)


def _check(gate: Tensor, value: Tensor, h0: Tensor | None, start: Tensor | None) -> None:
    named = {"gate": gate, "value": value, "h0": h0, "start": start}
    check_tensors("linear_scan", named, _DTYPES)
    if value.dim() != 3 or 0 in value.shape:
        raise ValueError(
            f"linear_scan: value must be [B, T, D], each at least 1, not {list(value.shape)}"
        )
    rows, time, channels = value.shape
    check_shapes("linear_scan", {"h0": (h0, (rows, channels)), "start": (start, (rows, time))})
    wanted = [channels, 1], [time, 1], [rows, 1]
    if gate.dim() > 3 or any(n not in ok for n, ok in zip(gate.shape[::-1], wanted, strict=False)):
        raise ValueError(
            f"linear_scan: gate must be [D] = {[channels]} or broadcast to value's "
            f"{list(value.shape)}, not {list(gate.shape)}"
        )


_SCAN = "(Tensor gate, Tensor value, Tensor? h0, Tensor? start, bool reverse) -> Tensor"
_BACKWARD = (
    "(Tensor grad_h, Tensor gate, Tensor? h, Tensor? h0, Tensor? start, bool reverse, "
    "bool need_gate, bool need_value, bool need_h0) -> (Tensor, Tensor, Tensor)"
)


@define_on_cpu("linear_scan", _SCAN)
def scan(
    gate: Tensor, value: Tensor, h0: Tensor | None, start: Tensor | None, reverse: bool
) -> Tensor:
    """`h` [B, T, D]; all arguments have one dtype, gate is [D] or [B, T, D]."""
    return _cpu_form().forward(gate, value, h0, start, reverse)


@define_on_cpu("linear_scan_backward", _BACKWARD)
def scan_backward(
    grad_h: Tensor,
    gate: Tensor,
    h: Tensor | None,
    h0: Tensor | None,
    start: Tensor | None,
    reverse: bool,
    need_gate: bool,
    need_value: bool,
    need_h0: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for gate, value and h0; an unneeded one is empty and not computed.

    `h` and `h0` are read only for the gate's gradient.
    """
    needs = (need_gate, need_value, need_h0)
    grads = _cpu_form().backward(grad_h, gate, h, h0, start, reverse, needs)
    return _or_empty(grads, needs, grad_h)


@register_kernel(scan, "cuda")
def _scan_cuda(
    gate: Tensor, value: Tensor, h0: Tensor | None, start: Tensor | None, reverse: bool
) -> Tensor:
    from rlmem.kernels.linear_scan import triton_form

    inputs = (gate.contiguous(), value.contiguous(), _contiguous(h0), _contiguous(start))
    return triton_form.forward(*inputs, reverse)


@register_kernel(scan_backward, "cuda")
def _scan_backward_cuda(
    grad_h: Tensor,
    gate: Tensor,
    h: Tensor | None,
    h0: Tensor | None,
    start: Tensor | None,
    reverse: bool,
    *needs: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    from rlmem.kernels.linear_scan import triton_form

    inputs = (grad_h.contiguous(), gate.contiguous(), _contiguous(h), _contiguous(h0))
    grads = triton_form.backward(*inputs, _contiguous(start), reverse, needs)
    return _or_empty(grads, needs, grad_h)


@torch.library.register_fake(scan)
def _scan_fake(
    gate: Tensor, value: Tensor, h0: Tensor | None, start: Tensor | None, reverse: bool
) -> Tensor:
    return value.new_empty(value.shape)


@torch.library.register_fake(scan_backward)
def _scan_backward_fake(
    grad_h: Tensor,
    gate: Tensor,
    h: Tensor | None,
    h0: Tensor | None,
    start: Tensor | None,
    reverse: bool,
    *needs: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, _, channels = grad_h.shape
    shapes = (gate.shape, grad_h.shape, (rows, channels))
    return _or_empty([grad_h.new_empty(shape) for shape in shapes], needs, grad_h)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    gate, _, h0, start, ctx.reverse = inputs
    states = (output, h0) if ctx.needs_input_grad[0] else (None, None)
    ctx.save_for_backward(gate, *states, start)


def _backward(ctx: Any, grad_h: Tensor) -> tuple[Tensor | None, ...]:
    gate, h, h0, start = ctx.saved_tensors
    needs = ctx.needs_input_grad[:3]
    grads = scan_backward(grad_h, gate, h, h0, start, ctx.reverse, *needs)
    return *(g if needed else None for g, needed in zip(grads, needs, strict=True)), None, None


torch.library.register_autograd(scan, _backward, setup_context=_setup)


def _setup_double(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad_h, gate, h, h0, start, ctx.reverse, *ctx.needs = inputs
    ctx.save_for_backward(grad_h, gate, h, h0, start, output[1] if ctx.needs[1] else None)


def _double_backward(
    ctx: Any, wrt_gate: Tensor, wrt_value: Tensor, wrt_h0: Tensor
) -> tuple[Tensor | None, ...]:
    """The adjoint of a scan that runs backward in time is a scan that runs forward.

    With g = grad_value, the backward is g[t] = grad_h[t] + conj(gate[t+1]) g[t+1], then
    grad_gate[t] = g[t] conj(h[t-1]) and grad_h0 = conj(gate[0]) g[0]. So the gradient for grad_h
    is s[t] = gate[t] s[t-1] + wrt_value[t] + wrt_gate[t] h[t-1] with s[-1] = wrt_h0.
    """
    grad_h, gate, h, h0, start, g = ctx.saved_tensors
    need_gate, need_value, need_h0 = ctx.needs
    if g is None:
        g = scan_backward(grad_h, gate, None, None, start, ctx.reverse, False, True, False)[1]
    source = wrt_value if need_value else torch.zeros_like(grad_h)
    first = wrt_h0 if need_h0 else None
    for_h = for_h0 = None
    if need_gate:
        source = source + wrt_gate * _before(h, h0, start, ctx.reverse)
        for_h, for_h0 = _after(wrt_gate.conj() * g, start, ctx.reverse)
    s = scan(gate, source, first, start, ctx.reverse)
    for_gate = _before(s, first, start, ctx.reverse).conj() * g
    if gate.dim() == 1:
        for_gate = for_gate.sum((0, 1))
    return s, for_gate, for_h, for_h0 if h0 is not None else None, *(None,) * 5


torch.library.register_autograd(scan_backward, _double_backward, setup_context=_setup_double)


def _before(h: Tensor, h0: Tensor | None, start: Tensor | None, reverse: bool) -> Tensor:
    """The state before each step: `h[t-1]`, `h0` at the first, zero at a start."""
    first = (torch.zeros_like(h[:, 0]) if h0 is None else h0)[:, None]
    before = torch.cat([h[:, 1:], first] if reverse else [first, h[:, :-1]], dim=1)
    return before if start is None else torch.where(start[..., None], 0, before)


def _after(x: Tensor, start: Tensor | None, reverse: bool) -> tuple[Tensor, Tensor]:
    """The adjoint of `_before`: the gradients for `h` and for `h0`."""
    if start is not None:
        x = torch.where(start[..., None], 0, x)
    zeros = torch.zeros_like(x[:, :1])
    if reverse:
        return torch.cat([zeros, x[:, :-1]], dim=1), x[:, -1]
    return torch.cat([x[:, 1:], zeros], dim=1), x[:, 0]


def _vmap(op: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
    """Fold the mapped dimension into the rows; results have it in front.

    Rows share one constant gate and its gradient, so if either is mapped, examples are computed
    one by one.
    """
    backward = op is scan_backward
    size, mapped = info.batch_size, [dim is not None for dim in in_dims]
    args = tuple(
        x if dim is None else x.movedim(dim, 0) for x, dim in zip(args, in_dims, strict=True)
    )
    gate_at = 1 if backward else 0
    constant = args[gate_at].dim() - mapped[gate_at] == 1
    if constant and (mapped[gate_at] or (backward and args[6])):
        each = [
            op(*(x[i] if m else x for x, m in zip(args, mapped, strict=True))) for i in range(size)
        ]
        out = tuple(map(torch.stack, zip(*each, strict=True))) if backward else torch.stack(each)
    else:
        folded = op(
            *(
                x
                if not isinstance(x, Tensor) or (constant and i == gate_at)
                else (x if mapped[i] else x.expand(size, *x.shape)).flatten(0, 1)
                for i, x in enumerate(args)
            )
        )
        out = tuple(_unfold(x, size) for x in folded) if backward else _unfold(folded, size)
    return out, (0, 0, 0) if backward else 0


torch.library.register_vmap(scan, partial(_vmap, scan))
torch.library.register_vmap(scan_backward, partial(_vmap, scan_backward))


def _unfold(x: Tensor, size: int) -> Tensor:
    return x.unflatten(0, (size, x.shape[0] // size)) if x.dim() > 1 else x.new_empty(size, 0)


@cache
def _cpu_form() -> ModuleType:
    """The form for CPU tensors; warns once if it is the slow one."""
    if native.AVAILABLE:
        return c_form
    warnings.warn(
        "rlmem's C kernels were not built (pip install needs a C compiler for them): "
        "linear_scan runs as a loop of torch operations, several times slower",
        RuntimeWarning,
        stacklevel=2,
    )
    return torch_form


def _or_empty(
    grads: Sequence[Tensor | None], needs: Sequence[bool], like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients as tensors, which an operator must return: empty where not needed."""
    gate, value, h0 = (
        g if needed and g is not None else like.new_empty(0)
        for g, needed in zip(grads, needs, strict=True)
    )
    return gate, value, h0


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()
