"""Gated outer-product memory: mLSTM, retention, (gated) linear attention."""

from __future__ import annotations

import torch
from torch import Tensor

from rlmem.kernels.matrix_memory.ops import read
from rlmem.kernels.matrix_memory.reference import (
    Memory,
    Read,
    log_forget,
    matrix_memory_reference,
    matrix_memory_step,
)

__all__ = ["Memory", "Read", "matrix_memory", "matrix_memory_reference", "matrix_memory_step"]

FORGET = ("sigmoid", "exponential")
NORMALIZERS = ("none", "max", "sum")
_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


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
    """Per head, from q, k [B, T, H, K] and v [B, T, H, V], and reset where `start` [B, T] is True:

        C[t] = f[t] C[t-1] + i[t] k[t] v[t]^T,   n[t] = f[t] n[t-1] + i[t] k[t]
        h[t] = C[t]^T q[t] / d[t]

    `i = exp(input_gate)` [B, T, H], or 1. `f` is the logistic function of `forget_gate` or, with
    `forget="exponential"`, its exponential (a log-decay); [B, T, H], [H] where it does not change
    with the input, or None for 1. The divisor d is 1 ("none"), `max(|n.q|, 1)` ("max": mLSTM,
    arXiv 2405.04517, equations 19-27) or `n.q` ("sum": linear attention), plus `eps`. With an
    input gate C and n are carried divided by exp(m), m[t] = max(log f[t] + m[t-1], input_gate[t]):
    so they stay finite, and eps is added to a d divided likewise, as in the authors' code.

    The state is zero at first unless given; n is there with a normaliser, m with an input gate.
    h has the dtype of q, k and v (float32, float64, bfloat16); state and sums that of theirs or
    float32, whichever is wider. Differentiable once, in everything but `start`. What lies before a
    start has exactly no influence after it as long as it is finite. A ValueError says what is wrong
    with the arguments.
    """
    _check(q, k, v, input_gate, forget_gate, state, start, forget, normalizer)
    rows, time, heads, _ = q.shape
    floating = [x for x in (q, k, v, input_gate, forget_gate, *(state or ())) if x is not None]
    wide, dtype = torch.float32, q.dtype
    for x in floating:
        wide = torch.promote_types(wide, x.dtype)
    for x in (k, v):
        dtype = torch.promote_types(dtype, x.dtype)
    dtype = torch.float64 if wide == torch.float64 else dtype
    if forget_gate is None:
        lf = torch.zeros(rows, time, heads, dtype=wide, device=q.device)
    else:
        lf = log_forget(forget_gate.to(wide), forget).expand(rows, time, heads)
    i = None if input_gate is None else input_gate.to(wide)
    C, m0 = (None, None) if state is None else (_join(state, wide), state.m)
    m0 = None if m0 is None else m0.to(wide)
    qkv = (q.to(dtype), k.to(dtype), v.to(dtype))
    h, last, m, _, _ = read(*qkv, i, lf, C, m0, start, normalizer, eps)
    values = v.shape[-1]
    return Read(
        h,
        Memory(
            C=last if normalizer == "none" else last[..., :values].clone(),
            n=None if normalizer == "none" else last[..., values].clone(),
            # A copy, so that a state kept for the next row does not keep this whole row alive.
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
    if q.dim() != 4 or 0 in q.shape:
        raise ValueError(
            f"matrix_memory: q must be [B, T, H, K], each at least 1, not {list(q.shape)}"
        )
    if v.dim() != 4 or 0 in v.shape:
        raise ValueError(
            f"matrix_memory: v must be [B, T, H, V], each at least 1, not {list(v.shape)}"
        )
    rows, time, heads, keys = q.shape
    columns, gate = v.shape[-1], (rows, time, heads)
    if (normalizer != "none", input_gate is not None) != (
        (normalizer != "none", input_gate is not None)
        if state is None
        else (state.n is not None, state.m is not None)
    ):
        raise ValueError(
            "matrix_memory: the state needs n with a normalizer and m with an input gate, only then"
        )
    forget_shape = (heads,) if forget_gate is not None and forget_gate.dim() == 1 else gate
    C, n, m = (None, None, None) if state is None else state
    for name, x, shape in (
        ("k", k, q.shape),
        ("v", v, (*gate, columns)),
        ("input_gate", input_gate, gate),
        ("forget_gate", forget_gate, forget_shape),
        ("state.C", C, (rows, heads, keys, columns)),
        ("state.n", n, (rows, heads, keys)),
        ("state.m", m, (rows, heads)),
        ("start", start, (rows, time)),
    ):
        _check_one(name, x, tuple(shape), q.device)
    _check_one("q", q, tuple(q.shape), q.device)


def _check_one(name: str, x: Tensor | None, shape: tuple[int, ...], device: torch.device) -> None:
    if x is None:
        return
    if tuple(x.shape) != shape:
        raise ValueError(f"matrix_memory: {name} must be {list(shape)}, not {list(x.shape)}")
    allowed = (torch.bool,) if name == "start" else _DTYPES
    if x.dtype not in allowed:
        names = ", ".join(str(d) for d in allowed)
        raise ValueError(f"matrix_memory: {name} is {x.dtype}; allowed are {names}")
    if x.device != device:
        raise ValueError(f"matrix_memory: {name} is on {x.device}, but q on {device}")
