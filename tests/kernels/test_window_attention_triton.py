"""The Triton kernels against the reference: on a GPU, or with TRITON_INTERPRET=1 on any machine.

`test_interpreter.py` runs this file in the interpreter, in a separate process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from rlmem.kernels import window_attention
from rlmem.kernels.window_attention import ops, window_attention_reference
from tests.kernels.test_window_attention import Given, given, results

pytest.importorskip("triton", reason="Triton is for Linux only")
from rlmem.kernels.window_attention import triton_form

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = [
    # The interpreter computes in numpy, which warns about infinities and NaNs; a GPU does not.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    *([] if INTERPRETED else [pytest.mark.gpu]),
]
hardware = pytest.mark.skipif(INTERPRETED, reason="too large, or wrong, in the interpreter")


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernels run on every device, in small blocks; uninitialised memory holds NaN."""
    if INTERPRETED:
        monkeypatch.setattr(ops, "torch_form", triton_form)
        monkeypatch.setattr(triton_form, "BLOCK", 16)
    torch.use_deterministic_algorithms(INTERPRETED)
    yield
    torch.use_deterministic_algorithms(False)


def converted(arguments: Given, dtype: torch.dtype, device: str) -> Given:
    """Copies of the arguments as leaves of the graph."""
    return tuple(
        x.detach().to(device, dtype).requires_grad_() if x.is_floating_point() else x.to(device)
        for x in arguments
    )


def assert_equals_reference(arguments: Given, tolerance: float = 2e-5) -> None:
    query, _, value = arguments[:3]
    grad = torch.randn(*query.shape[:3], value.shape[3]).to(query.dtype)
    want = results(
        window_attention_reference, converted(arguments, torch.float64, "cpu"), grad.double()
    )
    there = converted(arguments, query.dtype, DEVICE)
    got = results(window_attention, there, grad.to(DEVICE))
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        # This comparison fails for a NaN.
        assert (one.cpu() - other).abs().max() <= tolerance * other.abs().max().clamp(min=1)


@pytest.mark.parametrize(
    ("time", "past", "relative", "heads"),
    [
        *((1, 0, True, 1), (1, 20, True, 1), (17, 1, True, 2), (37, 20, True, 1)),
        *((16, 16, True, 1), (5, 40, True, 1), (1, 0, False, 1), (20, 17, False, 2)),
    ],
)
def test_equals_the_reference(time: int, past: int, relative: bool, heads: int) -> None:
    """Whole and partial blocks, a half-filled memory, adjacent starts and starts at borders."""
    assert_equals_reference(given(time, past, relative, torch.float32, heads=heads))


@pytest.mark.parametrize("size", [1, 16, 20])
def test_padded_and_unpadded_sizes(size: int) -> None:
    """Sizes of a key that are padded and that are not; those of a value are one larger."""
    assert_equals_reference(given(6, 3, True, torch.float32, heads=1, size=size))


def test_blocks_of_the_default_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(ops, "torch_form", triton_form)
    assert_equals_reference(given(34, 5, True, torch.float32, heads=1))


def test_values_before_a_start_have_exactly_no_effect() -> None:
    arguments = converted(given(21, 12, True, torch.float32, heads=1), torch.float32, DEVICE)
    query, key, value, _, start, *_ = arguments
    begin = 18
    start[:, begin] = True
    y = window_attention(*arguments)[:, begin:]
    grads = torch.autograd.grad(y.square().sum(), (query, key, value))
    assert not grads[0][:, :begin].any()
    assert not grads[1][:, : 12 + begin].any()
    assert not grads[2][:, : 12 + begin].any()
    with torch.no_grad():
        key[:, : 12 + begin] += 1e3
        value[:, : 12 + begin] -= 1e3
        assert torch.equal(window_attention(*arguments)[:, begin:], y)


def test_extreme_scores_stay_finite() -> None:
    arguments = converted(given(20, 16, True, torch.float32, heads=1), torch.float32, DEVICE)
    with torch.no_grad():
        arguments[0].mul_(1e4)
    grad = torch.ones(2, 20, 1, 4, device=DEVICE)
    assert all(each.isfinite().all() for each in results(window_attention, arguments, grad))


@hardware
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("size", [16, 32, 40, 64, 127, 130])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-4), (torch.bfloat16, 5e-2)]
)
def test_on_a_gpu(dtype: torch.dtype, tolerance: float, size: int, relative: bool) -> None:
    """Unsupported inputs (float64, keys of 130 numbers) are computed by torch."""
    assert_equals_reference(given(300, 100, relative, dtype, rows=3, heads=4, size=size), tolerance)
