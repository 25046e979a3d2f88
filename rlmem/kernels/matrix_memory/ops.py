"""Matrix memory and its backward as torch.library operators: autograd, tracing, vmap."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rlmem.kernels.matrix_memory import torch_form
from rlmem.kernels.matrix_memory.reference import (
    Memory,
    Read,
    log_forget,
)
from rlmem.kernels.native import check_shapes, check_tensors, widen
from rlmem.kernels.operator import define, refuse_autograd

FORGET = ("sigmoid", "exponential")
NORMALIZERS = ("none", "max", "sum")


def matrix_memory(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    input_gate: Tensor | None = None,
    forget_gate: Tensor | None = None,
    state: Memory | None = None,
    start: Tensor | None = None,
    *,
    forget: str = "sigmoid",
    normalizer: str = "none",
    eps: float = 0.0,
) -> Read:
    """The memory's outputs and its state after the row; per head,

        C[t] = f[t] C[t-1] + i[t] k[t] v[t]^T,   n[t] = f[t] n[t-1] + i[t] k[t]
        h[t] = C[t]^T q[t] / d[t]

    from q, k [B, T, H, K] and v [B, T, H, V]. The state before is zero at a `start` [B, T].
    `i = exp(input_gate)` [B, T, H], or 1. `f` is the logistic function of `forget_gate` or, with
    `forget="exponential"`, its exponential (a log-decay); [B, T, H], [H] for a constant gate, or
    None for 1. The divisor d is 1 ("none"), `max(|n.q|, 1)` ("max": mLSTM, arXiv 2405.04517,
    equations 19-27) or `n.q` ("sum": linear attention), plus `eps`. With an input gate, the state
    holds C and n divided by exp(m), m[t] = max(log f[t] + m[t-1], input_gate[t]), so that they stay
    finite; eps is then added to d / exp(m), as in the authors' code.

    The first state is zero unless given; it has n with a normaliser and m with an input gate. h has
    the dtype of q, k and v (float32, float64, bfloat16); state and sums have that dtype or float32,
    whichever is wider. Under autocast, float16 becomes float32. Differentiable once, in everything
    but `start`. Finite values before a start have exactly no effect after it. Raises `ValueError`
    if an argument has a wrong value, shape, dtype, layout or device.
    """
    q, k, v = widen(q), widen(k), widen(v)
    input_gate, forget_gate = widen(input_gate), widen(forget_gate)
    _check(q, k, v, input_gate, forget_gate, state, start, forget, normalizer)
    rows, time, heads, _ = q.shape
    floating = [x for x in (q, k, v, input_gate, forget_gate, *(state or ())) if x is not None]
    wide = reduce(torch.promote_types, (x.dtype for x in floating), torch.float32)
    dtype = reduce(torch.promote_types, (k.dtype, v.dtype), q.dtype)
    dtype = torch.float64 if wide == torch.float64 else dtype
    if forget_gate is None:
        lf = torch.zeros(rows, time, heads, dtype=wide, device=q.device)
    else:
        lf = log_forget(forget_gate.to(wide), forget).expand(rows, time, heads)
    i = None if input_gate is None else input_gate.to(wide)
    C = None if state is None else _join(state, wide)
    m0 = None if state is None or state.m is None else state.m.to(wide)
    qkv = (q.to(dtype), k.to(dtype), v.to(dtype))
    h, last, m, _, _ = read(*qkv, i, lf, C, m0, start, normalizer, eps)
    values = v.shape[-1]
    return Read(
        h,
        Memory(
            C=last if normalizer == "none" else last[..., :values].clone(),
            n=None if normalizer == "none" else last[..., values].clone(),
            # A copy: a view, kept as a state for the next row, would keep this row's memory alive.
            m=None if i is None else m[:, -1].clone(),
        ),
    )


def _join(state: Memory, dtype: torch.dtype) -> Tensor:
    """C with n as its last column."""
    C = state.C.to(dtype)
    return C if state.n is None else torch.cat([C, state.n.to(dtype)[..., None]], dim=-1)


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    input_gate: Tensor | None,
    forget_gate: Tensor | None,
    state: Memory | None,
    start: Tensor | None,
    forget: str,
    normalizer: str,
) -> None:
    for name, value, options in (
        ("forget", forget, FORGET),
        ("normalizer", normalizer, NORMALIZERS),
    ):
        if value not in options:
            raise ValueError(f"matrix_memory: {name} must be one of {options}, not {value!r}")
    C, n, m = (None, None, None) if state is None else state
    gates = {"input_gate": input_gate, "forget_gate": forget_gate}
    states = {"state.C": C, "state.n": n, "state.m": m}
    check_tensors("matrix_memory", {"q": q, "k": k, "v": v, "start": start} | gates | states)
    for name, x, last in (("q", q, "K"), ("v", v, "V")):
        if x.dim() != 4 or 0 in x.shape:
            raise ValueError(
                f"matrix_memory: {name} must be [B, T, H, {last}], each at least 1, not "
                f"{list(x.shape)}"
            )
    rows, time, heads, keys = q.shape
    columns, gate = v.shape[-1], (rows, time, heads)
    needed = normalizer != "none", input_gate is not None
    if state is not None and needed != (n is not None, m is not None):
        raise ValueError(
            "matrix_memory: state must have n if and only if there is a normalizer, and m if and "
            "only if there is an input gate"
        )
    forget_shape = (heads,) if forget_gate is not None and forget_gate.dim() == 1 else gate
    wanted = {
        "k": (k, q.shape),
        "v": (v, (*gate, columns)),
        "input_gate": (input_gate, gate),
        "forget_gate": (forget_gate, forget_shape),
        "state.C": (C, (rows, heads, keys, columns)),
        "state.n": (n, (rows, heads, keys)),
        "state.m": (m, (rows, heads)),
        "start": (start, (rows, time)),
    }
    check_shapes("matrix_memory", wanted)


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
    """The form for tensors like `x`: Triton on CUDA, but torch for float64."""
    if x.device.type != "cuda" or x.dtype == torch.float64:
        return torch_form
    from rlmem.kernels.matrix_memory import triton_form

    return triton_form


@define("matrix_memory", _READ)
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
    """A `torch_form.Saved`. q, k, v have one dtype, the rest have it or float32, the wider one.

    `state` [B, H, K, V'] has the normaliser's n as its last column, if there is one.
    """
    arguments = (q, k, v, i, lf, state, m0, start, normalizer, eps)
    with torch.autocast(q.device.type, enabled=False):
        h, last, m, norm, states = _form(q).forward(*arguments)
    return h, last, m, norm, states


@define("matrix_memory_backward", _BACKWARD)
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
    """A `torch_form.Grads`; those for i and m0 are empty without i."""
    saved = torch_form.Saved(h, last, m, norm, states)
    arguments = (grad_h, grad_last, grad_m, q, k, v, i, lf, m0, start, saved, normalizer, eps)
    with torch.autocast(q.device.type, enabled=False):
        grads = _form(q).backward(*arguments)
    into_q, into_k, into_v, into_i, into_lf, into_state, into_m0 = (
        lf.new_empty(0) if each is None else each for each in grads
    )
    return into_q, into_k, into_v, into_i, into_lf, into_state, into_m0


@torch.library.register_fake(read)
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


@torch.library.register_fake(read_backward)
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
    """Only h, the state and m are differentiable; the other outputs are for this function."""
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


torch.library.register_autograd(read, _backward, setup_context=_setup)
refuse_autograd(read_backward)


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


torch.library.register_vmap(read, partial(_vmap, read))
torch.library.register_vmap(read_backward, partial(_vmap, read_backward))
