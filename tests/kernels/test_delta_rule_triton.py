"""The Triton kernels against the reference: on a GPU, or with TRITON_INTERPRET=1 on any machine.

`test_interpreter.py` runs this file in the interpreter, in a separate process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from rlmem.kernels import delta_rule
from rlmem.kernels.delta_rule import delta_rule_reference, torch_form
from tests.kernels.test_delta_rule import Inputs, make, results

pytest.importorskip("triton", reason="Triton is for Linux only")
from rlmem.kernels.delta_rule import triton_form

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = [
    # The interpreter computes in numpy, which warns about infinities and NaNs; a GPU does not.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    *([] if INTERPRETED else [pytest.mark.gpu]),
]
hardware = pytest.mark.skipif(INTERPRETED, reason="too large for the interpreter")


@pytest.fixture(autouse=True)
def _poison() -> Iterator[None]:
    """Uninitialised memory holds NaN, and nondeterministic operations raise an error."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(False)


def by_kernels(x: Inputs, grads: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Outputs, last state and all gradients, directly from the kernels."""
    q, k, v, beta, g, state, start = (None if t is None else t.to(DEVICE) for t in x)
    inputs = torch_form.Inputs(q, k, v, beta, g, start)
    o, last, errors = triton_form.forward(inputs, state)
    found = triton_form.backward(*(g.to(DEVICE) for g in grads), inputs, state, o, last, errors)
    return [t.cpu() for t in (o, last, *found) if len(t)]


def compare(x: Inputs, tolerance: float = 2e-5) -> None:
    grads = torch.randn(x.v.shape), torch.randn(x.state.shape)
    want = results(delta_rule_reference, x.of(torch.float64), tuple(g.double() for g in grads))
    for got, exact in zip(by_kernels(x, grads), want, strict=True):
        assert got.shape == exact.shape
        limit = tolerance * max(1.0, exact.abs().max().item())
        # This comparison fails for a NaN.
        assert (got - exact).abs().max().item() <= limit


@pytest.mark.parametrize(
    ("size", "time", "decay", "start"),
    [
        ((4, 5), 9, True, (3, 4)),
        ((4, 5), 9, False, (0,)),
        ((20, 33), 4, True, (2,)),
        ((16, 16), 1, False, (0,)),
        ((3, 2), 1, True, ()),
        ((2, 2), 5, True, tuple(range(5))),
        ((2, 2), 40, True, (17, -1)),
    ],
    ids=str,
)
def test_equals_the_reference(
    size: tuple[int, int], time: int, decay: bool, start: tuple[int, ...]
) -> None:
    heads, rows = (1, 1) if time == 40 else (2, 2) if time == 9 else (2, 1)
    options = {"rows": rows, "heads": heads, "size": size, "decay": decay, "start": start}
    compare(make(time, torch.float32, **options))


@pytest.mark.parametrize("decay", [False, True])
def test_values_in_several_blocks(monkeypatch: pytest.MonkeyPatch, decay: bool) -> None:
    """Each program computes partial sums of the gradients for keys and queries."""
    monkeypatch.setattr(triton_form, "COLUMNS", dict.fromkeys(triton_form.COLUMNS, (16, 1)))
    compare(make(4, torch.float32, rows=1, heads=1, size=(6, 37), decay=decay, start=(2,)))


def test_extreme_decays() -> None:
    x = make(8, torch.float32, rows=1, heads=1, start=(5,))
    g = torch.where(torch.rand(x.g.shape) < 0.3, -800.0, x.g)
    compare(x._replace(g=g))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nothing_crosses_a_start(bad: float) -> None:
    """Neither values before it, even NaN, nor gradients of results after it."""
    at, time = 3, 6
    clean = make(time, torch.float32, rows=1, heads=1, start=(at,))
    spoiled = [x.clone() for x in clean[:6]]
    for x in spoiled[:5]:
        x[:, :at] = bad
    spoiled[4][:, at] = bad  # at a start the decay is not read
    spoiled[5][:] = bad
    grads = torch.randn(clean.v.shape), torch.randn(clean.state.shape)
    want = by_kernels(clean, grads)
    got = by_kernels(Inputs(*spoiled, clean.start), grads)
    assert torch.equal(got[1], want[1])
    for g, w in zip((got[0], *got[2:7]), (want[0], *want[2:7]), strict=True):
        assert torch.equal(g[:, at:], w[:, at:])
    grads[0][:, at:] = bad
    got = by_kernels(clean, (grads[0], torch.full_like(grads[1], bad)))
    for g, w in zip(got[2:7], want[2:7], strict=True):
        assert torch.equal(g[:, :at], w[:, :at])
    assert torch.equal(got[7], want[7])


@hardware
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (128, 128), (40, 100)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_operator_equals_the_reference(size: tuple[int, int], dtype: torch.dtype) -> None:
    """Through the public function, with one and two writes per step."""
    x = make(150, dtype, rows=3, size=size, writes=2, start=(7, 40))
    there = Inputs(*(None if t is None else t.cuda() for t in x))
    o, last = delta_rule(*there)
    grads = torch.randn_like(o), torch.randn_like(last)
    got = results(delta_rule, there, grads)
    exact = tuple(g.cpu().double() for g in grads)
    want = results(delta_rule_reference, x.of(torch.float64), exact)
    bound = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 2e-2}[dtype]
    for g, w in zip(got, want, strict=True):
        assert (g.cpu() - w).abs().max() <= bound * max(1.0, w.abs().max().item())
