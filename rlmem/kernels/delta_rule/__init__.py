"""The delta rule: a matrix memory that replaces what it holds at a key."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from rlmem.kernels.delta_rule.ops import rule
from rlmem.kernels.delta_rule.reference import delta_rule_reference

__all__ = ["delta_rule", "delta_rule_reference"]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16)
_DEVICES = ("cpu", "cuda", "meta")


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

    `q`, `k` are [B, T, H, K], `v` [B, T, H, V], `beta` [B, T, H]; the logarithm `g` [B, T, H] of
    the decay is zero if not given, as is the first `state`; at a `start` [B, T] (bool) the state
    before is zero and `g` is not read. With N writes per time step (DeltaProduct) `k`, `v` and
    `beta` are [B, T, N, H, ...]: forget, write N times in turn, read. The state stays bounded for
    unit keys, beta in [0, 2] and g <= 0; beta above 1 turns the sign of what is held at the key.

    float32, float64, and bfloat16 computed in float32, in which the state is; mixed dtypes are
    promoted as torch does. What lies before a start is multiplied by zero: it leaves no trace in
    outputs and gradients where it is finite. Differentiable once in all but start. A ValueError
    says what is wrong with the arguments. DeltaNet (arXiv 2406.06484), Gated DeltaNet (arXiv
    2412.06464, equation 10), DeltaProduct (arXiv 2502.10297).
    """
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
        # What is read, forgotten or reset once per time step is so at its last or first write.
        q, g = spread(q, writes, last=True), None if g is None else spread(g, writes)
        start = spread(start, writes)
    parts = (None if x is None else x.to(wide) for x in (q, k, v, beta, g, state))
    o, after, _ = rule(*parts, start)
    return o[:, writes - 1 :: writes].to(dtype), after


def spread(x: Tensor, writes: int, last: bool = False) -> Tensor:
    """[B, T * writes, ...]: each step of `x` at its first write, or its last, among zeros."""
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
    """B, T, H and K, where everything fits to them."""
    if q.dim() != 4 or 0 in q.shape:
        raise ValueError(
            f"delta_rule: q must be [B, T, H, K], each at least 1, not {list(q.shape)}"
        )
    rows, time, heads, size = q.shape
    if v.dim() not in (4, 5) or 0 in v.shape:
        raise ValueError(
            f"delta_rule: v must be [B, T, H, V] or [B, T, N, H, V], not {list(v.shape)}"
        )
    each = [rows, time, *([v.shape[2]] if v.dim() == 5 else []), heads]
    named = {"q": q, "k": k, "v": v, "beta": beta, "g": g, "state": state, "start": start}
    shapes = {
        "k": [*each, size],
        "v": [*each, v.shape[-1]],
        "beta": each,
        "g": [rows, time, heads],
        "state": [rows, heads, size, v.shape[-1]],
        "start": [rows, time],
    }
    there = {name: x for name, x in named.items() if x is not None}
    for name, x in there.items():
        if name in shapes and list(x.shape) != shapes[name]:
            raise ValueError(f"delta_rule: {name} must be {shapes[name]}, not {list(x.shape)}")
        allowed = (torch.bool,) if name == "start" else _DTYPES
        if x.dtype not in allowed:
            names = ", ".join(str(d).removeprefix("torch.") for d in allowed)
            raise ValueError(f"delta_rule: {name} is {x.dtype}; allowed are {names}")
    devices = {name: str(x.device) for name, x in there.items()}
    if len(set(devices.values())) > 1 or q.device.type not in _DEVICES:
        raise ValueError(
            f"delta_rule: all tensors must be on one device of {', '.join(_DEVICES)}, not {devices}"
        )
    return rows, time, heads, size
