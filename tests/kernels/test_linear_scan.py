"""The linear scan on the CPU: the reference, gradients of any order, resets, threads."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import prod
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from rlmem.kernels import linear_scan, native
from rlmem.kernels.linear_scan import c_form, linear_scan_reference, ops, torch_form

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.complex128]
# Relative and absolute, to the reference in double precision. A bfloat16 result is within one
# rounding of h, a gradient within a few roundings of the saved h.
TOLERANCE = {
    torch.float32: (1e-5, 1e-5),
    torch.float64: (1e-12, 1e-12),
    torch.bfloat16: (2e-2, 2e-2),
    torch.complex64: (1e-5, 1e-5),
    torch.complex128: (1e-12, 1e-12),
}
# All sizes one; one channel; one step; odd sizes, longer than the steps that C sums in float32; and
# more channels than C processes at a time.
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
    """Random inputs, with gates inside the unit circle."""
    rows, time, channels = shape
    gate = torch.randn((channels,) if constant else shape, dtype=dtype)
    gate = gate / (gate.abs() + 0.1)
    state = torch.randn(rows, channels, dtype=dtype) if h0 else None
    starts = None if start is None else STARTS[start](torch.arange(time)).repeat(rows, 1)
    return Inputs(gate, torch.randn(shape, dtype=dtype), state, starts)


STARTS: dict[str, Callable[[Tensor], Tensor]] = {
    "some": lambda t: torch.rand(len(t)) < 0.3,
    "first": lambda t: t == 0,
    "last": lambda t: t == len(t) - 1,
    "adjacent": lambda t: (t == len(t) // 2) | (t == len(t) // 2 + 1),
    "all": lambda t: t >= 0,
    "none": lambda t: t < 0,
}


@pytest.fixture(params=["c", "torch"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Each of the two forms for CPUs, behind the same operator."""
    module = c_form if request.param == "c" else torch_form
    monkeypatch.setattr(ops, "_cpu_form", lambda: module)
    return module


def differentiate(
    scan: Callable[..., Tensor], x: Inputs, grad_h: Tensor, reverse: bool = False
) -> list[Tensor]:
    """h and the gradients for gate, value and (if given) h0."""
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


def test_the_c_module_is_built() -> None:
    assert native.AVAILABLE, "python setup.py build_ext --inplace builds it"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("constant", [False, True])
def test_equals_the_reference(
    form: ModuleType, dtype: torch.dtype, shape: tuple[int, int, int], constant: bool
) -> None:
    for i, (start, reverse) in enumerate(product([None, *STARTS], [False, True])):
        x = make(shape, dtype, constant, h0=i % 4 < 2, start=start)
        assert_equal_to_reference(x, dtype, reverse)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_second_derivatives(
    form: ModuleType, dtype: torch.dtype, constant: bool, reverse: bool
) -> None:
    x = make((2, 4, 2), dtype, constant)
    leaves = tuple(t.requires_grad_() for t in x[:3])

    def scan(gate: Tensor, value: Tensor, h0: Tensor) -> Tensor:
        return linear_scan(gate, value, h0, x.start, reverse=reverse)

    assert gradcheck(scan, leaves, fast_mode=True)
    assert gradgradcheck(scan, leaves, fast_mode=True)
    for i, leaf in enumerate(leaves):
        # A single gradient needs other outputs of the backward; squared, so that it is not trivial.
        others = [t.detach() for t in leaves]
        assert gradgradcheck(
            lambda t, o=others, i=i: scan(*o[:i], t, *o[i + 1 :]) ** 2, (leaf,), fast_mode=True
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_any_strides(form: ModuleType, dtype: torch.dtype) -> None:
    def check(gate: Tensor, value: Tensor, h0: Tensor | None = None) -> None:
        start = (torch.rand(value.shape[1], value.shape[0]) < 0.3).T
        assert_equal_to_reference(Inputs(gate, value, h0, start), dtype)

    both = torch.randn(2, 9, 10, dtype=dtype) / 3
    check(*both.chunk(2, dim=-1))
    check(*both.flip(0).transpose(0, 1).chunk(2, dim=-1))
    check(both[..., ::2], both[..., 1::2], both[:, 0, ::2])
    check(both.transpose(1, 2), both.mT.clone(), both.mT[:, 0])
    check(both[:, :1].expand(-1, 9, -1), both[:1].expand(2, -1, -1), both[0, :1].expand(2, -1))
    check(both[0, :1, :1].expand(2, 9, 10), both)
    check(both[0, 0, ::2], both[..., ::2])
    check(both.conj(), both.conj().conj_physical(), both[:, 0].conj())


def test_an_expanded_gradient(form: ModuleType) -> None:
    """The gradient of a plain sum: a single number, expanded with stride 0."""
    x = make()
    one = torch.ones(())
    want = differentiate(linear_scan, x, torch.ones_like(x.value))
    torch.testing.assert_close(differentiate(linear_scan, x, one.expand(x.value.shape)), want)


CUT = 4


def around_a_start(
    dtype: torch.dtype, constant: bool, reverse: bool
) -> tuple[Inputs, Tensor, slice, slice]:
    """Inputs with a start at `CUT`, a gradient for h, and the times before and after the start."""
    x = make((2, 9, 5), dtype, constant, start="none")
    x.start[:, CUT] = True
    before, after = slice(None, CUT), slice(CUT, None)
    if reverse:
        before, after = slice(CUT + 1, None), slice(None, CUT + 1)
    return x, torch.randn_like(x.value), before, after


poisons = pytest.mark.parametrize("poison", [NAN, float("inf")])
some_dtypes = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str
)
gates = pytest.mark.parametrize("constant", [False, True])
ways = pytest.mark.parametrize("reverse", [False, True])


@poisons
@some_dtypes
@gates
@ways
def test_no_state_passes_a_start(
    form: ModuleType, dtype: torch.dtype, constant: bool, reverse: bool, poison: float
) -> None:
    """Values before a start, even NaN, have no effect on states and gradients after it."""
    x, grad_h, before, after = around_a_start(dtype, constant, reverse)
    grad_h[:, before] = 0
    want = differentiate(linear_scan, x, grad_h, reverse)
    x.value[:, before] = x.h0[:] = poison
    if not constant:
        x.gate[:, before] = x.gate[:, CUT] = poison
    h, grad_gate, grad_value, _ = differentiate(linear_scan, x, grad_h, reverse)
    assert torch.equal(h[:, after], want[0][:, after])
    assert torch.equal(grad_value[:, after], want[2][:, after])
    if not constant:
        assert torch.equal(grad_gate[:, after], want[1][:, after])
        assert not grad_gate[:, CUT].any(), "the gate at a start is not read"


@poisons
@some_dtypes
@gates
@ways
def test_no_gradient_passes_a_start(
    form: ModuleType, dtype: torch.dtype, constant: bool, reverse: bool, poison: float
) -> None:
    x, grad_h, before, after = around_a_start(dtype, constant, reverse)
    want = differentiate(linear_scan, x, grad_h, reverse)
    grad_h[:, after] = poison
    _, grad_gate, grad_value, grad_h0 = differentiate(linear_scan, x, grad_h, reverse)
    assert torch.equal(grad_value[:, before], want[2][:, before])
    assert torch.equal(grad_h0, want[3])
    if not constant:
        assert torch.equal(grad_gate[:, before], want[1][:, before])
        assert not grad_gate[:, CUT].any(), "the gate at a start is not read"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("constant", [False, True])
def test_no_uninitialised_memory_is_read(
    form: ModuleType, dtype: torch.dtype, constant: bool
) -> None:
    x, grad_h = make((3, 71, 19), dtype, constant), torch.randn(3, 71, 19, dtype=dtype)
    want = differentiate(linear_scan, x, grad_h)
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    try:
        assert torch.empty(1).isnan()
        got = differentiate(linear_scan, x, grad_h)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("shape", [(1, 7, 700), (3, 40, 301), (70, 5, 3)], ids=str)
def test_threads_give_the_same_result(
    dtype: torch.dtype,
    constant: bool,
    shape: tuple[int, int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, grad_h = make(shape, dtype, constant), torch.randn(shape, dtype=dtype)
    want = differentiate(linear_scan, x, grad_h)
    threads = torch.get_num_threads()
    monkeypatch.setattr(native, "SERIAL_BELOW", 0)
    try:
        for n in [2, 5]:
            torch.set_num_threads(n)
            assert prod(native.work_splits(x.value.shape, x.value.itemsize)) > 1
            got = differentiate(linear_scan, x, grad_h)
            torch.testing.assert_close(got, want)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("constant", [False, True])
def test_threads_run_concurrently(constant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large enough for all threads to start before the first one has finished the work."""
    x, grad_h = make((16, 512, 200), constant=constant), torch.randn(16, 512, 200)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    got = [differentiate(linear_scan, x, grad_h) for _ in range(3)]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    torch.testing.assert_close(got, [differentiate(linear_scan, x, grad_h)] * 3)


def test_work_splits_give_every_thread_a_nonempty_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native, "SERIAL_BELOW", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for rows, channels in product([1, 2, 5, 64], [1, 17, 512]):
        row_cuts, channel_cuts = native.work_splits(torch.Size([rows, 7, channels]), 4)
        assert 1 <= row_cuts <= rows
        assert 1 <= channel_cuts <= channels
        assert row_cuts * channel_cuts >= 3 or rows * channels < 3 * 64


def test_large_gradients_of_a_constant_gate_keep_their_precision(form: ModuleType) -> None:
    """A million products are summed in more than single precision."""
    x = make((64, 4096, 4), constant=True, h0=False)._replace(gate=torch.full((4,), 0.5))
    grad_h = torch.ones_like(x.value)
    got = differentiate(linear_scan, x._replace(value=grad_h), grad_h)
    double = Inputs(x.gate.double(), grad_h.double(), None, x.start)
    want = differentiate(linear_scan, double, grad_h.double())
    torch.testing.assert_close(got[1].double(), want[1], rtol=3e-7, atol=0)


def test_a_long_row_stays_finite_and_exact() -> None:
    """T = 100,000 with a gate of 0.999: states near 1000 = 1 / (1 - 0.999)."""
    time = 100_000
    gate = torch.tensor([0.999], dtype=torch.float64)
    value = torch.ones(1, time, 1, dtype=torch.float64, requires_grad=True)
    h = linear_scan(gate, value)
    steps = torch.arange(1, time + 1, dtype=torch.float64)
    torch.testing.assert_close(h[0, :, 0].detach(), (1 - 0.999**steps) / (1 - 0.999))
    h[0, -1, 0].backward()
    torch.testing.assert_close(value.grad[0, :, 0], 0.999 ** (time - steps))
    for dtype in DTYPES:
        grad_h = torch.randn(1, time, 2, dtype=dtype)
        results = differentiate(linear_scan, make((1, time, 2), dtype), grad_h)
        assert all(t.isfinite().all() for t in results)
