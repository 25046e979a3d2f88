"""The self-referential weight matrix against its definition: outputs, changes, all gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from rlmem.kernels.self_reference import (
    RATES,
    c_form,
    ops,
    self_reference,
    self_reference_reference,
)
from tests.cores.common import weighted

TOLERANCE = {torch.float32: 3e-5, torch.float64: 1e-11}
# Rows, time, heads, size, outputs that are y.
SHAPES = [(1, 1, 1, 1, 1), (2, 37, 2, 4, 5), (3, 16, 1, 17, 20)]


class Inputs(NamedTuple):
    """The arguments of `self_reference`."""

    x: Tensor
    weight: Tensor
    change: Tensor
    start: Tensor

    def to(self, dtype: torch.dtype) -> Inputs:
        return Inputs(*(each.to(dtype) for each in self[:3]), self.start)


def make(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Inputs:
    """Rows with first changes. Starts include a row's first step."""
    rows, time, heads, size, width = shape
    matrix = (heads, width + 2 * size + RATES, size)
    start = torch.rand(rows, time) < 0.2
    start[0, 0] = True
    x = torch.randn(rows, time, heads, size).softmax(-1)
    return Inputs(x, torch.randn(matrix), 0.3 * torch.randn(rows, *matrix), start).to(dtype)


def differentiate(
    f: Callable[..., tuple[Tensor, Tensor]],
    given: Inputs,
    weigh: tuple[bool, bool] = (True, True),
) -> list[Tensor]:
    """y, the last change, and the gradients of a weighted sum of both, or of one of them."""
    leaves = [each.detach().clone().requires_grad_() for each in given[:3]]
    results = f(*leaves, given.start)
    loss = sum(weighted(each) for each, wanted in zip(results, weigh, strict=True) if wanted)
    return [*(each.detach() for each in results), *torch.autograd.grad(loss, leaves)]


def assert_close(got: list[Tensor], want: list[Tensor], dtype: torch.dtype) -> None:
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        assert g.dtype == dtype
        error = (g.to(w.dtype) - w).abs().max().item()
        assert error <= TOLERANCE[dtype] * max(1.0, w.abs().max().item()), (
            f"result {i}: {error:.1e}"
        )


@pytest.fixture(params=["c", "torch"])
def form(request, monkeypatch) -> None:
    if request.param == "torch":
        monkeypatch.setattr(c_form, "supports", lambda x: False)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("weigh", [(True, True), (True, False), (False, True)], ids=str)
def test_equals_the_reference(form, shape, weigh) -> None:
    for dtype in TOLERANCE:
        given = make(shape, dtype)
        want = differentiate(self_reference_reference, given.to(torch.float64), weigh)
        assert_close(differentiate(self_reference, given, weigh), want, dtype)


def test_threads_share_the_matrices(monkeypatch) -> None:
    given = make((3, 9, 2, 4, 5))
    want = differentiate(self_reference, given)
    monkeypatch.setattr(c_form.native, "work_splits", lambda shape, size: (6, 1))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert all(map(torch.equal, differentiate(self_reference, given), want))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nothing_crosses_a_start(form, bad) -> None:
    """Bad inputs before it have no effect on later results or gradients."""
    at, clean = 4, make((2, 9, 2, 3, 4))
    clean.start[:, at] = True
    spoiled = clean._replace(
        x=clean.x.index_fill(1, torch.arange(at), bad), change=torch.full_like(clean.change, bad)
    )

    def after(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        y, change = self_reference(*arguments)
        return y[:, at:], change

    want, got = (differentiate(after, each) for each in (clean, spoiled))
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])
    assert torch.equal(got[2][:, at:], want[2][:, at:])


def test_opcheck() -> None:
    given = make((2, 4, 2, 3, 2))
    tensors = [each.requires_grad_() for each in given[:3]]
    torch.library.opcheck(ops.loop, (*tensors, given.start))
    y, after, kept = (each.detach() for each in ops.loop(*tensors, given.start))
    x, weight = (each.detach() for each in given[:2])
    call = (torch.randn_like(y), torch.randn_like(after), x, weight, given.start, kept)
    torch.library.opcheck(ops.loop_backward, call)


@pytest.mark.parametrize("mapped", [(0, 2, 3), (1,), (0, 1, 2, 3)], ids=str)
def test_vmap(mapped) -> None:
    """Over arguments with rows, over weights, and over both; outputs and gradients."""
    examples = [make((2, 4, 2, 3, 2)) for _ in range(3)]
    columns = zip(*examples, strict=True)
    given = [torch.stack(c) if i in mapped else c[0] for i, c in enumerate(columns)]
    leaves = [each.requires_grad_() for each in given[:3]]
    dims = tuple(0 if i in mapped else None for i in range(4))
    got = torch.vmap(self_reference, dims)(*leaves, given[3])
    each = [
        self_reference(*(x[i] if j in mapped else x for j, x in enumerate([*leaves, given[3]])))
        for i in range(3)
    ]
    want = [torch.stack(results) for results in zip(*each, strict=True)]
    torch.testing.assert_close(list(got), want)
    grads = (torch.autograd.grad(sum(map(weighted, r)), leaves) for r in (got, want))
    torch.testing.assert_close(*grads)


def test_half_precision_is_computed_in_float32() -> None:
    given = make((2, 5, 2, 3, 2), torch.float32)
    want = self_reference(*given)
    with torch.autocast("cpu", torch.bfloat16):
        got = self_reference(*given)
    assert all(map(torch.equal, got, want))
    y, after = self_reference(given.x.bfloat16(), *given[1:])
    assert y.dtype == after.dtype == torch.float32
    assert torch.equal(y, self_reference(given.x.bfloat16().float(), *given[1:])[0])


GIVEN = make((2, 3, 2, 4, 1))
X, W, C, START = GIVEN


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0], W, C, START), r"x must be \[B, T, H, D\]"),
        ((X, W[:, 1:], C, START), r"weight must be \[2, 13 or more, 4\], not \[2, 12, 4\]"),
        ((X, W[:1], C, START), r"weight must be \[2, 13, 4\], not \[1, 13, 4\]"),
        ((X, W, C[:1], START), r"change must be \[2, 2, 13, 4\]"),
        ((X, W, C, START[:, :2]), r"start must be \[2, 3\], not \[2, 2\]"),
        ((X, W, C, START.float()), "start must be torch.bool, not torch.float32"),
        ((X.half(), W, C, START), "x is torch.float16; allowed are"),
        ((X, W.to("meta"), C, START), "must be on one device"),
    ],
)
def test_bad_arguments_are_named(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        self_reference(*arguments)
