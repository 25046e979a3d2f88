"""Shared parts of the matrix memory's tests: settings, data, outputs with all gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlmem.kernels.matrix_memory import Memory, Read


class Setting(NamedTuple):
    """The options of a model."""

    input_gate: bool
    forget_gate: str | None  # "steps", "heads" or None
    forget: str
    normalizer: str
    eps: float


SETTINGS = {
    "mlstm": Setting(True, "steps", "sigmoid", "max", 1e-2),
    "mlstm exponential": Setting(True, "steps", "exponential", "max", 0.0),
    "gates unnormalized": Setting(True, "steps", "sigmoid", "none", 0.0),
    "retention": Setting(False, "heads", "exponential", "none", 0.0),
    "simple gla": Setting(False, "steps", "exponential", "none", 0.0),
    "linear": Setting(False, None, "sigmoid", "sum", 1e-2),
    "lightning": Setting(False, "heads", "exponential", "max", 0.0),
    "inputs only": Setting(True, None, "sigmoid", "sum", 1e-2),
}


class Problem(NamedTuple):
    """Arguments of one call."""

    q: Tensor
    k: Tensor
    v: Tensor
    input_gate: Tensor | None
    forget_gate: Tensor | None
    state: Memory | None
    start: Tensor | None


def make(
    name: str,
    shape: tuple[int, int, int, int, int],
    start: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
    state: bool = True,
) -> Problem:
    """Random arguments for [B, T, H, K, V]; positive for "sum", to keep n.q away from 0."""
    setting = SETTINGS[name]
    rows, time, heads, keys, values = shape
    wide = torch.promote_types(dtype, torch.float32)
    q, k = torch.randn(2, rows, time, heads, keys, dtype=dtype)
    v = torch.randn(rows, time, heads, values, dtype=dtype)
    C, n = torch.randn(rows, heads, keys, values), torch.randn(rows, heads, keys)
    if setting.normalizer == "sum":
        q, k, n = q.abs() + 0.1, k.abs() + 0.1, n.abs() + 1
    i = 2 * torch.randn(rows, time, heads, dtype=wide) if setting.input_gate else None
    f = {
        "steps": 2 * torch.randn(rows, time, heads, dtype=wide),
        "heads": -torch.rand(heads, dtype=wide),
        None: None,
    }[setting.forget_gate]
    if f is not None and setting.forget == "exponential" and not setting.input_gate:
        f = -f.abs()
    first = Memory(
        C.to(wide),
        None if setting.normalizer == "none" else n.to(wide),
        torch.randn(rows, heads, dtype=wide) if setting.input_gate else None,
    )
    return Problem(q, k, v, i, f, first if state else None, start)


def options(name: str) -> dict[str, Any]:
    setting = SETTINGS[name]
    return {
        "forget": setting.forget,
        "normalizer": setting.normalizer,
        "eps": setting.eps,
    }


def leaves(problem: Problem) -> list[Tensor]:
    """The differentiable arguments."""
    given = [*problem[:5], *(problem.state or ())]
    return [x for x in given if x is not None]


def fresh(problem: Problem, dtype: torch.dtype | None = None) -> Problem:
    """A copy with tensors that are leaves of the graph (in `dtype`)."""

    def copy(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.detach().to(dtype or x.dtype, copy=True).requires_grad_()

    state = problem.state and Memory(*map(copy, problem.state))
    return Problem(*map(copy, problem[:5]), state, problem.start)


def results(function: Callable[..., Read], problem: Problem, **settings: Any) -> list[Tensor]:
    """h, the state, and the gradients of a weighted sum of them."""
    h, state = function(*problem, **settings)
    outputs = [h, *(x for x in state if x is not None)]
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator).to(x) for x in outputs]
    loss = sum((x * w).sum() for x, w in zip(outputs, weights, strict=True))
    gradients = torch.autograd.grad(
        loss, leaves(problem), allow_unused=True, materialize_grads=True
    )
    return [x.detach() for x in (*outputs, *gradients)]


def assert_close(got: list[Tensor], want: list[Tensor], tolerance: float) -> None:
    """Each within `tolerance` of the expected tensor's largest entry (at least 1e-2)."""
    assert len(got) == len(want)
    for i, (x, y) in enumerate(zip(got, want, strict=True)):
        assert x.shape == y.shape
        limit = tolerance * max(y.abs().max().item(), 1e-2)
        error = (x.to(y) - y).abs().max().item()
        assert error <= limit, f"number {i}: off by {error:.2e}, allowed {limit:.2e}"
