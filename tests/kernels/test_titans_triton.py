"""The Triton kernels against the chunks in torch: on a GPU, or in the interpreter on any machine.

`test_interpreter.py` runs this file with TRITON_INTERPRET=1, in a separate process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rlmem.kernels import titans
from rlmem.kernels.titans import Learned, Rates, Rule, ops, titans_reference, torch_form
from tests.kernels.test_titans import Given, floats, results

pytest.importorskip("triton", reason="Triton is for Linux only")
from rlmem.kernels.titans import triton_form

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = [
    # The interpreter computes in numpy, which warns about infinities and NaNs; a GPU does not.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    *([] if INTERPRETED else [pytest.mark.gpu]),
]
hardware = pytest.mark.skipif(INTERPRETED, reason="too large for the interpreter")
HUBER = Rule(limit=0.5, bias="huber")


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernels run in float32 on every device, and uninitialised memory holds NaN."""

    def form(given: list[Tensor], rule: Rule) -> object:
        return triton_form if triton_form.supports(given[2], rule) else torch_form

    monkeypatch.setattr(ops, "_form", form)
    torch.use_deterministic_algorithms(INTERPRETED)
    yield
    torch.use_deterministic_algorithms(False)


def make(time: int, dtype: torch.dtype, **options: object) -> Given:
    """The same numbers in each dtype."""
    torch.manual_seed(0)
    given = Given(time, **options, dtype=torch.float32)  # type: ignore[arg-type]
    device = DEVICE if dtype is torch.float32 else "cpu"

    def move(x: Tensor) -> Tensor:
        return x.detach().to(device, dtype).requires_grad_()

    unit = [F.normalize(x, dim=-1) for x in (given.q, given.k)]  # longer keys learn too fast
    given.q, given.k, given.v = map(move, (*unit, given.v))
    given.rates = Rates(*map(move, given.rates))
    given.first = tuple(map(move, given.first))
    kinds = (tuple(map(move, kind)) for kind in given.state[:3])
    given.state = Learned(*kinds, given.state.age.to(device))
    given.start = given.start.to(device)
    return given


def assert_equal(rule: Rule, time: int, tolerance: float = 2e-5, **options: object) -> None:
    want = results(titans, make(time, torch.float64, **options), rule)
    with torch.device(DEVICE):
        got = results(titans, make(time, torch.float32, **options), rule)
    for one, exact in zip(got, want, strict=True):
        assert one.shape == exact.shape
        # This comparison fails for a NaN.
        limit = tolerance * max(1.0, exact.abs().max().item())
        assert (one.cpu() - exact).abs().max().item() <= limit


@pytest.mark.parametrize("rule", [Rule(), Rule(limit=0.7), Rule(bias="huber"), HUBER], ids=str)
@pytest.mark.parametrize("sizes", [(4, 3), (3, 5, 4)], ids=str)
def test_every_rule(sizes: tuple[int, ...], rule: Rule) -> None:
    assert_equal(rule._replace(chunk=3), 7, sizes=sizes, rows=2, heads=1)


@pytest.mark.parametrize(("chunk", "time"), [(1, 3), (8, 20), (13, 9), (16, 3)])
def test_chunks(chunk: int, time: int) -> None:
    """One token; chunks that end within a row, and that begin before it or end after it."""
    assert_equal(Rule(chunk, 0.7), time, sizes=(2, 3), rows=3, heads=1)


@pytest.mark.parametrize("sizes", [(20, 3), (3, 20), (3, 20, 4), (20, 3, 18)], ids=str)
def test_several_tiles(sizes: tuple[int, ...]) -> None:
    assert_equal(HUBER._replace(chunk=3), 4, sizes=sizes, rows=1, heads=2)


def test_a_start_at_every_step() -> None:
    given = make(4, torch.float32, sizes=(2, 2), rows=1, heads=1)
    given.start[:] = True
    y, state = titans(*given, Rule(3))
    want, last = titans_reference(*given, Rule(3))
    torch.testing.assert_close(floats(y, state), floats(want, last), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sizes", [(3, 2), (2, 3, 2)], ids=str)
def test_nothing_crosses_a_start(sizes: tuple[int, ...]) -> None:
    """No gradient of results after a start reaches what lies before it."""
    given = make(6, torch.float32, sizes=sizes, rows=1, heads=1)
    given.start[:] = False
    given.start[:, 4] = True
    y, state = titans(*given, Rule(2))
    loss = y[:, 4:].square().sum() + sum(w.square().sum() for w in state.weight)
    leaves = [given.q, given.k, given.v, *given.rates[:3]]
    grads = torch.autograd.grad(loss, [*leaves, *given.state.weight, *given.state.momentum])
    assert all(grad[:, 4:].any() and not grad[:, :4].any() for grad in grads[:3])
    assert not any(grad.any() for grad in grads[6:])


@hardware
@pytest.mark.parametrize("chunk", [8, 16])
@pytest.mark.parametrize("sizes", [(32, 64, 32), (64, 64), (128, 256, 128), (40, 100)], ids=str)
def test_on_a_gpu(sizes: tuple[int, ...], chunk: int) -> None:
    assert_equal(Rule(chunk, 1.0), 100, 1e-3, sizes=sizes, rows=3, heads=2)
