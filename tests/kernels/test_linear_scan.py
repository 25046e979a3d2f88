"""The linear scan on the CPU: the reference, its gradients, and what an operator owes torch."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import product
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from rlmem.kernels import linear_scan
from rlmem.kernels.linear_scan import cpu, linear_scan_reference, loop, ops

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.complex128]
# Relative and absolute; against the reference in double precision. A bfloat16 result is within one
# rounding of h, a gradient within a few of the h that was kept.
TOLERANCE = {
    torch.float32: (1e-5, 1e-5),
    torch.float64: (1e-12, 1e-12),
    torch.bfloat16: (2e-2, 2e-2),
    torch.complex64: (1e-5, 1e-5),
    torch.complex128: (1e-12, 1e-12),
}
# One of everything, one channel, one step, odd sizes longer than the steps that C sums up at a
# time, and more channels than C takes at a time.
SHAPES = [(1, 1, 1), (3, 7, 1), (2, 1, 5), (3, 71, 19), (2, 3, 1100)]
NAN = float("nan")


class Inputs(NamedTuple):
    gate: Tensor
    value: Tensor
    h0: Tensor | None
    start: Tensor | None


def make(
    shape: tuple[int, int, int] = (2, 9, 5),
    dtype: torch.dtype = torch.float32,
    constant: bool = False,
    h0: bool = True,
    start: str | None = "some",
) -> Inputs:
    """Random inputs with gates inside the unit circle."""
    rows, time, channels = shape
    gate = torch.randn((channels,) if constant else shape, dtype=dtype)
    gate = gate / (gate.abs() + 0.1)
    state = torch.randn(rows, channels, dtype=dtype) if h0 else None
    starts = None if start is None else STARTS[start](torch.arange(time)).expand(rows, time)
    return Inputs(gate, torch.randn(shape, dtype=dtype), state, starts)


STARTS: dict[str, Callable[[Tensor], Tensor]] = {
    "some": lambda t: torch.rand(len(t)) < 0.3,
    "first": lambda t: t == 0,
    "last": lambda t: t == len(t) - 1,
    "adjacent": lambda t: (t == len(t) // 2) | (t == len(t) // 2 + 1),
    "all": lambda t: t >= 0,
    "none": lambda t: t < 0,
}


@pytest.fixture(params=["c", "loop"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Each of the two forms on the CPU, behind the same operator."""
    module = cpu if request.param == "c" else loop
    monkeypatch.setattr(ops, "_cpu", lambda: module)
    return module


def differentiate(
    scan: Callable[..., Tensor], x: Inputs, grad_h: Tensor, reverse: bool = False
) -> list[Tensor]:
    """h and the gradients for gate, value and (if there is one) h0."""
    leaves = [t.detach().requires_grad_() for t in x[:3] if t is not None]
    h0 = leaves[2] if x.h0 is not None else None
    h = scan(*leaves[:2], h0, x.start, reverse=reverse)
    return [h.detach(), *torch.autograd.grad(h, leaves, grad_h)]


def assert_equal_to_reference(x: Inputs, dtype: torch.dtype, reverse: bool = False) -> None:
    grad_h = torch.randn_like(x.value)
    got = differentiate(linear_scan, x, grad_h, reverse)
    wide = torch.promote_types(dtype, torch.float64)
    exact = Inputs(*(None if t is None else t.to(wide) for t in x[:3]), x.start)
    want = differentiate(linear_scan_reference, exact, grad_h.to(wide), reverse)
    rtol, atol = TOLERANCE[dtype]
    for name, g, w in zip(["h", "gate", "value", "h0"], got, want, strict=False):
        assert g.dtype == dtype, name
        atol_here = atol * max(1.0, w.abs().max().item())
        torch.testing.assert_close(
            g.to(wide), w, rtol=rtol, atol=atol_here, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_the_c_form_is_built() -> None:
    assert cpu.AVAILABLE, "python setup.py build_ext --inplace builds it"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("constant", [False, True])
def test_equals_the_reference(
    form: ModuleType, dtype: torch.dtype, shape: tuple[int, int, int], constant: bool
) -> None:
    for i, (start, reverse) in enumerate(product([None, *STARTS], [False, True])):
        x = make(shape, dtype, constant, h0=i % 4 < 2, start=start)
        assert_equal_to_reference(x, dtype, reverse)
