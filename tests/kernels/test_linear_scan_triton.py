"""The Triton kernels against the reference: on a GPU, or with TRITON_INTERPRET=1 on any machine.

`test_interpreter.py` runs this file in the interpreter, in a separate process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import cycle, product

import pytest
import torch
from torch import Tensor

from rlmem.kernels.linear_scan import linear_scan, linear_scan_reference
from tests.kernels.test_linear_scan import STARTS, TOLERANCE, Inputs, differentiate, make

pytest.importorskip("triton", reason="Triton is for Linux only")
from rlmem.kernels.linear_scan import triton_form

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = [
    # The interpreter computes in numpy, which warns about infinities and NaNs; a GPU does not.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    *([] if INTERPRETED else [pytest.mark.gpu]),
]
hardware = pytest.mark.skipif(INTERPRETED, reason="too large, or wrong, in the interpreter")

DTYPES = [torch.float32, torch.complex64, torch.float64, torch.complex128]
# One time step; odd; one channel; more channels than a block has.
SHAPES = [(2, 1, 3), (2, 11, 3), (1, 9, 1), (1, 8, 35)]
CASES = [
    (shape, constant, reverse, start, h0)
    for (shape, constant, reverse), start, h0 in zip(
        product(SHAPES, [False, True], [False, True]),
        cycle(["adjacent", "first", "last", "all", None]),
        cycle([True, True, False]),
        strict=False,
    )
]


@pytest.fixture(autouse=True)
def _poison() -> Iterator[None]:
    """Uninitialised memory holds NaN, and nondeterministic operations raise an error."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut rows into chunks of 8 steps; without this, only long rows are cut."""
    monkeypatch.setattr(triton_form, "LONG", 16)
    monkeypatch.setattr(triton_form, "SHORTEST", 8)


def scan_and_gradients(x: Inputs, grad_h: Tensor, reverse: bool = False) -> list[Tensor]:
    """h and the gradients for gate, value and (if given) h0, directly from the kernels."""
    gate, value, h0, start = (None if t is None else t.to(DEVICE).contiguous() for t in x)
    h = triton_form.forward(gate, value, h0, start, reverse)
    grads = triton_form.backward(grad_h.to(DEVICE), gate, h, h0, start, reverse)
    assert (grads[2] is None) == (h0 is None)
    return [t.cpu() for t in (h, *grads) if t is not None]


def assert_close(got: list[Tensor], want: list[Tensor], dtype: torch.dtype) -> None:
    rtol, atol = TOLERANCE[dtype]
    for name, g, w in zip(["h", "gate", "value", "h0"], got, want, strict=False):
        assert g.dtype == dtype, name
        bound = atol * max(1.0, w.abs().max().item())
        torch.testing.assert_close(
            g.to(w.dtype), w, rtol=rtol, atol=bound, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert len(got) == len(want)


def assert_equal_to_reference(x: Inputs, reverse: bool = False) -> None:
    dtype = x.value.dtype
    grad_h = torch.randn_like(x.value)
    wide = torch.promote_types(dtype, torch.float64)
    exact = Inputs(*(None if t is None else t.to(wide) for t in x[:3]), x.start)
    want = differentiate(linear_scan_reference, exact, grad_h.to(wide), reverse)
    assert_close(scan_and_gradients(x, grad_h, reverse), want, dtype)


@pytest.mark.parametrize(
    ("dtype", "shape", "constant", "reverse", "start", "h0"),
    [(torch.float32, *case) for case in CASES] + [(torch.complex64, *case) for case in CASES[::3]],
    ids=str,
)
def test_equals_the_reference(
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    constant: bool,
    reverse: bool,
    start: str | None,
    h0: bool,
) -> None:
    assert_equal_to_reference(make(shape, dtype, constant, h0, start), reverse)


@pytest.mark.parametrize("dtype", DTYPES[2:], ids=str)
@pytest.mark.parametrize("constant", [False, True])
def test_double_precision_equals_the_reference(dtype: torch.dtype, constant: bool) -> None:
    assert_equal_to_reference(make((2, 7, 3), dtype, constant, start="some"))


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(
    ("time", "start", "reverse"), [(37, "some", False), (24, "adjacent", True), (17, None, False)]
)
def test_chunks_equal_the_reference(
    short_chunks: None,
    dtype: torch.dtype,
    constant: bool,
    time: int,
    start: str | None,
    reverse: bool,
) -> None:
    x = make((1, time, 3), dtype, constant, start=start)
    assert triton_form.launch_config(x.value.shape, x.value.itemsize).chunks == -(-time // 8)
    assert_equal_to_reference(x, reverse)


@pytest.mark.parametrize("place", STARTS)
def test_a_start_anywhere_in_a_chunk(short_chunks: None, place: str) -> None:
    assert_equal_to_reference(make((1, 17, 2), start=place))


def test_chunks_of_chunks_equal_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan over the chunks is itself cut into chunks."""
    monkeypatch.setattr(triton_form, "LONG", 4)
    monkeypatch.setattr(triton_form, "SHORTEST", 4)
    for start in ("some", None):
        assert_equal_to_reference(make((1, 23, 1), torch.float64, start=start))


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("constant", [False, True])
def test_wide_blocks_equal_the_reference(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, constant: bool
) -> None:
    monkeypatch.setattr(triton_form, "MANY", 1)
    x = make((1, 5, 144), dtype, constant)
    assert (
        triton_form.launch_config(x.value.shape, x.value.itemsize).program
        == triton_form.WIDE[dtype.itemsize]
    )
    assert_equal_to_reference(x)


@pytest.mark.parametrize("constant", [False, True])
def test_only_needed_gradients_are_computed(constant: bool) -> None:
    x = make((1, 3, 2), torch.complex64, constant)
    gate, value, h0, start = (t.to(DEVICE) for t in x if t is not None)
    grad_h = torch.randn_like(value)
    h = triton_form.forward(gate, value, h0, start, False)
    want = triton_form.backward(grad_h, gate, h, h0, start, False)
    for needs in product([False, True], repeat=3):
        states = (h, h0) if needs[0] else (None, None)
        got = triton_form.backward(grad_h, gate, *states, start, False, needs)
        for g, w, needed in zip(got, want, needs, strict=True):
            assert (g is None) == (not needed)
            if g is not None:
                torch.testing.assert_close(g, w, rtol=0, atol=0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("time", [13, 19])
def test_nothing_crosses_a_start(short_chunks: None, time: int, reverse: bool) -> None:
    """NaN in all inputs before a start, and in the gradient after it: neither crosses."""
    bad = torch.tensor([float("nan"), float("inf")])
    at = time - 11 if reverse else 10
    before, after = slice(0, at), slice(at, None)
    if reverse:
        before, after = slice(at + 1, None), slice(0, at + 1)
    start = torch.zeros(1, time, dtype=torch.bool)
    start[:, at] = True
    clean = make((1, time, 2), start=None)._replace(start=start)
    gate, value, h0 = (t.clone() for t in clean[:3] if t is not None)
    gate[:, before] = value[:, before] = h0[:] = bad
    gate[:, at] = bad  # at a start the gate is not read either
    grad_h = torch.randn_like(value)
    want = scan_and_gradients(clean, grad_h, reverse)
    got = scan_and_gradients(Inputs(gate, value, h0, start), grad_h, reverse)
    for g, w in zip(got[:3], want[:3], strict=True):
        assert not w.isnan().any()
        torch.testing.assert_close(g[:, after], w[:, after], rtol=0, atol=0)

    grad_h = grad_h.clone()
    grad_h[:, after] = bad
    got = scan_and_gradients(clean, grad_h, reverse)
    for g, w in zip(got[1:3], want[1:3], strict=True):
        torch.testing.assert_close(g[:, before], w[:, before], rtol=0, atol=0)
    torch.testing.assert_close(got[3], want[3], rtol=0, atol=0)


@hardware
@pytest.mark.parametrize("shape", [(3, 33, 19), (2, 1500, 40), (4096, 17, 128)], ids=str)
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_operator_equals_the_reference(
    dtype: torch.dtype, constant: bool, shape: tuple[int, int, int]
) -> None:
    """Through the public function; a sequential, a chunked and a wide shape."""
    x = make(shape, dtype, constant)
    grad_h = torch.randn_like(x.value)
    wide = torch.promote_types(dtype, torch.float64)
    exact = Inputs(*(None if t is None else t.to(wide) for t in x[:3]), x.start)
    want = differentiate(linear_scan, exact, grad_h.to(wide))
    there = Inputs(*(None if t is None else t.cuda().contiguous() for t in x))
    assert_close([t.cpu() for t in differentiate(linear_scan, there, grad_h.cuda())], want, dtype)


@hardware
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_a_very_long_row(dtype: torch.dtype) -> None:
    x = make((2, 100_003, 40), dtype, constant=True, start=None)
    starts = torch.rand(2, 100_003) < 1e-3
    grad_h = torch.randn_like(x.value)
    wide = torch.promote_types(dtype, torch.float64)
    exact = Inputs(*(None if t is None else t.to(wide) for t in x[:3]), starts)
    want = differentiate(linear_scan, exact, grad_h.to(wide))
    assert_close(scan_and_gradients(x._replace(start=starts), grad_h), want, dtype)


@hardware
def test_more_elements_than_32_bit_integers_count() -> None:
    rows, time, channels = 3, 70_000, 10_240
    if torch.cuda.get_device_properties(0).total_memory < 40 * 2**30:
        pytest.skip("needs 40 GB of memory")
    gate = torch.rand(channels, dtype=torch.bfloat16, device="cuda")
    value = torch.zeros(rows, time, channels, dtype=torch.bfloat16, device="cuda")
    value[-1] = torch.rand(time, channels, dtype=torch.bfloat16, device="cuda")
    h = triton_form.forward(gate, value, None, None, False)
    assert h.numel() > 2**31
    torch.testing.assert_close(h[-1:], triton_form.forward(gate, value[-1:], None, None, False))
    assert not h[0].any()


@hardware
@pytest.mark.parametrize("constant", [False, True])
def test_a_gate_without_a_gradient(constant: bool) -> None:
    x = make((3, 20, 8), constant=constant)
    gate, value, h0, start = (t.cuda().contiguous() for t in x if t is not None)
    grad_h = torch.randn_like(value)
    want = differentiate(linear_scan, Inputs(gate, value, h0, start), grad_h)
    leaves = [value.requires_grad_(), h0.requires_grad_()]
    got = torch.autograd.grad(linear_scan(gate, *leaves, start), leaves, grad_h)
    for g, w in zip(got, want[2:], strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=0)


@hardware
def test_compiles_to_one_graph() -> None:
    def loss(gate: Tensor, value: Tensor, h0: Tensor, start: Tensor) -> Tensor:
        return linear_scan(gate.sigmoid(), value, h0, start).square().mean()

    leaves = [t.cuda().requires_grad_() for t in make((4, 600, 64))[:3] if t is not None]
    start = torch.rand(4, 600, device="cuda") < 0.1
    want = torch.autograd.grad(loss(*leaves, start), leaves)
    got = torch.autograd.grad(torch.compile(loss, fullgraph=True)(*leaves, start), leaves)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-7)
