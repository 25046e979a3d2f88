"""The matrix products next to the recurrence equal torch's, for any vector width."""

from __future__ import annotations

import pytest
import torch

from rlmem.kernels import linear, native, project
from rlmem.kernels.gated_rnn import product, tiles

pytestmark = pytest.mark.skipif(not native.AVAILABLE, reason="the C was not built")
LEVELS = range(native.lib.rlmem_gated_rnn_level() + 1) if native.AVAILABLE else range(0)
TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-13}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", [(301, 17, 96), (131, 37, 64), (3, 2, 5)], ids=str)
def test_products_and_gradients_equal_torch(monkeypatch, level, threads, shape) -> None:
    """Whole tiles, columns left over, and products that the C form does not compute."""
    monkeypatch.setattr(tiles, "level", lambda: level)
    monkeypatch.setattr(tiles, "MIN_WORK", 1000)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    rows, inputs, outputs = shape
    for dtype, tolerance in TOLERANCE.items():
        x = torch.randn(2, rows, inputs, dtype=dtype, requires_grad=True)
        weight = torch.randn(outputs, inputs, dtype=dtype, requires_grad=True)
        grad = torch.randn(2, rows, outputs, dtype=dtype)
        y, want = project(x, weight), x.double() @ weight.double().t()
        got = [y, *torch.autograd.grad(y, (x, weight), grad)]
        exact = [want, *torch.autograd.grad(want, (x, weight), grad.double())]
        for g, w in zip(got, exact, strict=True):
            assert g.dtype == dtype
            assert (g - w).abs().max() <= tolerance * w.abs().max()


def test_rows_with_any_stride(monkeypatch) -> None:
    monkeypatch.setattr(tiles, "MIN_WORK", 1)
    x, y = torch.randn(40, 3, 33)[:, 1], torch.randn(40, 2, 64)[:, 1]
    torch.testing.assert_close(tiles.gram(x, y), x.t() @ y, rtol=1e-5, atol=1e-5)
    weight = torch.randn(33, 64).t()
    torch.testing.assert_close(tiles.times(x, weight), x @ weight.t(), rtol=1e-5, atol=1e-5)


def test_opcheck() -> None:
    x, weight, y = (torch.randn(s, requires_grad=True) for s in ((5, 3), (4, 3), (5, 4)))
    torch.library.opcheck(product.times, (x, weight))
    torch.library.opcheck(product.gram, (x, y))


def test_second_derivatives() -> None:
    x = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(project, (x, weight))
    assert torch.autograd.gradgradcheck(project, (x, weight))


@pytest.mark.parametrize("dims", [(0, None), (2, None), (None, 0), (1, 1)])
def test_vmap(dims) -> None:
    shapes = [(3, 4, 2), (5, 2)]
    mapped = [s if d is None else (*s[:d], 6, *s[d:]) for s, d in zip(shapes, dims, strict=True)]
    given = [torch.randn(s) for s in mapped]
    got = torch.vmap(project, dims)(*given)
    for i in range(6):
        x, weight = (v if d is None else v.select(d, i) for v, d in zip(given, dims, strict=True))
        torch.testing.assert_close(got[i], x @ weight.t())


def test_autocast_has_products_in_half_precision() -> None:
    x, weight = torch.randn(2, 3, 4), torch.randn(5, 4)
    with torch.autocast("cpu", torch.float16):
        assert project(x, weight).dtype == torch.float16
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(project(x, weight), linear(x, weight))
        assert not torch.equal(project(x, weight).float(), x @ weight.t())
