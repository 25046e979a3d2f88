"""The Triton kernels against the definition: on a GPU, or with TRITON_INTERPRET=1 on any machine.

`test_interpreter.py` runs this file in the interpreter, in a separate process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from rlmem.kernels import short_conv
from rlmem.kernels.short_conv import short_conv_reference, torch_form
from tests.kernels.test_short_conv import Leaves, leaves, results, starts

pytest.importorskip("triton", reason="Triton is for Linux only")
from rlmem.kernels.short_conv import triton_form

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = [
    # The interpreter computes in numpy, which warns about infinities and NaNs; a GPU does not.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    *([] if INTERPRETED else [pytest.mark.gpu]),
]
hardware = pytest.mark.skipif(INTERPRETED, reason="too large, or wrong, in the interpreter")
BOUNDS = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 0.02}


@pytest.fixture(autouse=True)
def _poison() -> Iterator[None]:
    """Uninitialised memory holds NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def both_passes(form: ModuleType, inputs: Leaves, start: Tensor, grad: Tensor) -> list[Tensor]:
    """y and the gradients of x, weight, bias and window."""
    x, weight, bias, window = (each.detach() for each in inputs)
    y = form.forward(x, weight, bias, window, start)
    return [y, *form.backward(grad, x, weight, window, start)]


def assert_equals_the_torch_form(inputs: Leaves, start: Tensor, grad: Tensor) -> None:
    """On numbers of a dtype, against float64, relative to the largest entry of each result."""
    dtype = inputs[0].dtype
    wide = tuple(each.double() for each in inputs)
    want = both_passes(torch_form, wide, start, grad.double())
    there = tuple(each.to(DEVICE) for each in inputs)
    got = both_passes(triton_form, there, start.to(DEVICE), grad.to(DEVICE))
    for one, other in zip(got, want, strict=True):
        assert one.dtype == dtype
        assert one.is_contiguous()
        assert one.shape == other.shape
        error = (one.cpu().double() - other).abs()
        assert (error <= BOUNDS[dtype] * other.abs().max()).all() if other.numel() else True


# Sizes of the filter: none before, usual, and larger than a block and than the row. One step; two
# blocks of steps; more channels than a block.
@pytest.mark.parametrize("size", [1, 2, 4, 7, 40])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 9, 5), (2, 35, 3), (1, 18, 69)], ids=str)
@pytest.mark.parametrize("often", [0.0, 0.2])
def test_equals_the_torch_form(size: int, shape: tuple[int, ...], often: float) -> None:
    inputs = leaves(*shape, size, torch.float32)
    start = torch.rand(shape[:2]) < often
    assert_equals_the_torch_form(inputs, start, torch.randn(shape))


@pytest.mark.parametrize("at", [(0,), (-1,), (0, 1, 2), (2, 4, 5, 8), tuple(range(9))], ids=str)
def test_starts_at_chosen_steps(at: tuple[int, ...]) -> None:
    for size in (2, 4):
        inputs = leaves(2, 9, 3, size, torch.float32)
        assert_equals_the_torch_form(inputs, starts(2, 9, *at), torch.randn(2, 9, 3))


# In the interpreter these dtypes are only read, widened and stored, which it does right.
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [20, 40])
def test_other_dtypes(dtype: torch.dtype, channels: int) -> None:
    inputs = leaves(2, 40, channels, 4, dtype)
    grad = torch.randn(2, 40, channels).to(dtype)
    assert_equals_the_torch_form(inputs, torch.rand(2, 40) < 0.1, grad)


@pytest.mark.parametrize("start_at", [0, 1, 4])
def test_nothing_crosses_a_start(start_at: int) -> None:
    """With NaN in all inputs and gradients of another episode, results are equal bit for bit."""
    x, weight, bias, window = (each.detach() for each in leaves(2, 8, 3, 4, torch.float32))
    start, grad = torch.zeros(2, 8, dtype=torch.bool), torch.randn(2, 8, 3)
    start[:, start_at] = True
    grad[:, :start_at] = 0
    before = torch.arange(start_at)
    spoiled = (
        x.index_fill(1, before, torch.nan),
        weight,
        bias,
        torch.full_like(window, torch.nan),
    )
    want, got = (
        both_passes(
            triton_form,
            tuple(each.to(DEVICE) for each in given),
            start.to(DEVICE),
            grad.to(DEVICE),
        )
        for given in ((x, weight, bias, window), spoiled)
    )
    assert torch.equal(got[0][:, start_at:], want[0][:, start_at:])
    assert all(torch.equal(got[i], want[i]) for i in (1, 3, 4))  # of x, bias and window
    if start_at == 0:
        assert torch.equal(got[2], want[2])
        assert (got[4] == 0).all()
    assert not any(each.isnan().any() for each in want)


def test_no_gradient_crosses_a_start() -> None:
    inputs, start = leaves(1, 6, 2, 4, torch.float32), starts(1, 6, 3)
    grad = torch.ones(1, 6, 2)
    grad[:, 3:] = torch.nan
    there = tuple(each.to(DEVICE) for each in inputs)
    _, grad_x, _, _, grad_window = both_passes(
        triton_form, there, start.to(DEVICE), grad.to(DEVICE)
    )
    assert grad_x[:, :3].isfinite().all()
    assert grad_window.isfinite().all()


def test_any_strides() -> None:
    x, grad = (torch.randn(6, 4, 10).transpose(0, 1) for _ in range(2))
    weight, window = torch.randn(3, 10).t(), torch.randn(2, 10, 4).permute(2, 0, 1)
    start = torch.rand(6, 4).t() < 0.3
    for gradient in (grad, torch.randn(1, 1, 1).expand(4, 6, 10)):
        assert_equals_the_torch_form((x, weight, torch.randn(10), window), start, gradient)


@hardware
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("shape", [(64, 129, 128), (3, 1000, 24)], ids=str)
def test_operator_equals_the_reference(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Through the public function, with gradients of autograd."""
    inputs = leaves(*shape, 4, dtype)
    start, grad = torch.rand(shape[:2]) < 0.05, torch.randn(shape).to(dtype)
    wide = tuple(each.detach().double().requires_grad_() for each in inputs)
    want = results(short_conv_reference, wide, start, grad.double())
    there = tuple(each.detach().cuda().requires_grad_() for each in inputs)
    got = results(short_conv, there, start.cuda(), grad.cuda())
    for one, other in zip(got, want, strict=True):
        error = (one.cpu().double() - other).abs().max()
        assert error <= BOUNDS[dtype] * other.abs().max()
