"""Definition of the gated outer-product memory: one step, and a plain loop over it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Memory", "Read", "log_forget", "matrix_memory_reference", "matrix_memory_step"]


class Memory(NamedTuple):
    """The state: `C` [B, H, K, V]; `n` [B, H, K] with a normaliser; `m` [B, H] with an input gate.

    The memory's content is `C exp(m)` and `n exp(m)`.
    """

    C: Tensor
    n: Tensor | None = None
    m: Tensor | None = None


class Read(NamedTuple):
    """The outputs [B, T, H, V], and the state after the row."""

    h: Tensor
    state: Memory


def log_forget(forget_gate: Tensor, forget: str) -> Tensor:
    """The logarithm of the forget gate, from its pre-activation."""
    return F.logsigmoid(forget_gate) if forget == "sigmoid" else forget_gate


def floor(m: Tensor) -> Tensor:
    """`exp(-m)`, the least divisor with an input gate; at most the largest finite number.

    An infinite divisor would make its gradient NaN.
    """
    return torch.exp(-m.clamp(min=1 - math.log(torch.finfo(m.dtype).max)))


def matrix_memory_step(
    q: Float[Tensor, "B H K"],
    k: Float[Tensor, "B H K"],
    v: Float[Tensor, "B H V"],
    state: Memory,
    input_gate: Float[Tensor, "B H"] | None = None,
    forget_gate: Float[Tensor, "B H"] | Float[Tensor, "H"] | None = None,
    *,
    forget: str = "sigmoid",
    normalizer: str = "none",
    eps: float = 0.0,
) -> tuple[Float[Tensor, "B H V"], Memory]:
    """One time step of `matrix_memory`, in the dtype of the state."""
    C, n, m = state
    q, k, v = q.to(C.dtype), k.to(C.dtype), v.to(C.dtype)
    lf = C.new_zeros(()) if forget_gate is None else log_forget(forget_gate.to(C.dtype), forget)
    if input_gate is None or m is None:
        decay, write = lf.exp().expand(C.shape[:2]), C.new_ones(C.shape[:2])
    else:
        before, i = lf + m, input_gate.to(C.dtype)
        m = torch.maximum(before, i)
        decay, write = torch.exp(before - m), torch.exp(i - m)
    k = write[..., None] * k
    C = decay[..., None, None] * C + k[..., None] * v[..., None, :]
    u = (C * q[..., None]).sum(-2)
    if n is None:
        return u if m is None else u * torch.exp(m)[..., None], Memory(C, n, m)
    n = decay[..., None] * n + k
    norm = (n * q).sum(-1)
    if normalizer == "max":
        norm = torch.maximum(norm.abs(), torch.ones_like(norm) if m is None else floor(m))
    return u / (norm + eps)[..., None], Memory(C, n, m)


def matrix_memory_reference(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    input_gate: Float[Tensor, "B T H"] | None = None,
    forget_gate: Float[Tensor, "B T H"] | Float[Tensor, "H"] | None = None,
    state: Memory | None = None,
    start: Bool[Tensor, "B T"] | None = None,
    *,
    forget: str = "sigmoid",
    normalizer: str = "none",
    eps: float = 0.0,
) -> Read:
    """The loop over time. Same arguments and results as `matrix_memory`."""
    rows, time, heads, keys = q.shape
    zero = Memory(
        C=q.new_zeros(rows, heads, keys, v.shape[-1]),
        n=None if normalizer == "none" else q.new_zeros(rows, heads, keys),
        m=None if input_gate is None else q.new_zeros(rows, heads),
    )
    state = zero if state is None else state
    h = []
    for t in range(time):
        if start is not None:
            state = _reset(state, start[:, t])
        i, f = (x if x is None or x.dim() == 1 else x[:, t] for x in (input_gate, forget_gate))
        here = (q[:, t], k[:, t], v[:, t], state, i, f)
        read, state = matrix_memory_step(*here, forget=forget, normalizer=normalizer, eps=eps)
        h.append(read)
    return Read(torch.stack(h, dim=1), state)


def _reset(state: Memory, start: Bool[Tensor, "B"]) -> Memory:
    """The state before a step: zero if an episode starts."""

    def forgotten(x: Tensor) -> Tensor:
        return torch.where(start.reshape(-1, *(1,) * (x.dim() - 1)), 0, x)

    n, m = (None if x is None else forgotten(x) for x in state[1:])
    return Memory(forgotten(state.C), n, m)
