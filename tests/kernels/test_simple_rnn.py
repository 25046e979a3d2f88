"""The simple recurrent networks against their definition: outputs, states, all gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from rlmem.kernels.simple_rnn import CELLS, c_form, newton, ops, simple_rnn, simple_rnn_reference
from tests.cores.common import weighted

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11}
# Rows, time, units.
SHAPES = [(1, 1, 1), (2, 7, 5), (35, 3, 16)]


class Inputs(NamedTuple):
    """The arguments of `simple_rnn`, without the cell."""

    projected: Tensor
    weight: Tensor
    state: tuple[Tensor, ...]
    start: Tensor
    scale: float = 0.7

    def to(self, dtype: torch.dtype) -> Inputs:
        state = tuple(s.to(dtype) for s in self.state)
        return Inputs(self.projected.to(dtype), self.weight.to(dtype), state, self.start)


def make(cell: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Inputs:
    """A row with a first state. Starts include a row's first step and adjacent steps."""
    rows, time, width = shape
    kind = CELLS[cell]
    shape = (kind.diagonals * width,) if kind.diagonals else (width, kind.parts * width)
    weight = torch.randn(shape)
    start = torch.rand(rows, time) < 0.3
    start[0, 0] = True
    return Inputs(
        torch.randn(rows, time, kind.parts * width),
        weight / width**0.5,
        tuple(torch.randn(rows, width) for _ in range(kind.states)),
        start,
    ).to(dtype)


def differentiate(
    rnn: Callable[..., tuple[Tensor, tuple[Tensor, ...]]],
    cell: str,
    given: Inputs,
    weigh: tuple[bool, bool] = (True, True),
) -> list[Tensor]:
    """h, the last state, and the gradients of a weighted sum of both, or of one of them."""
    given_leaves = (given.projected, given.weight, *given.state)
    leaves = [x.detach().clone().requires_grad_() for x in given_leaves]
    h, last = rnn(cell, *leaves[:2], tuple(leaves[2:]), given.start, given.scale)
    loss = sum(map(weighted, [h] * weigh[0] + [*last] * weigh[1]))
    grads = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return [h.detach(), *(s.detach() for s in last), *grads]


def assert_close(got: list[Tensor], want: list[Tensor], dtype: torch.dtype) -> None:
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        assert g.dtype == dtype
        limit = TOLERANCE[dtype] * max(1.0, w.abs().max().item())
        error = (g.to(w.dtype) - w).abs().max().item()
        assert error <= limit, f"result {i}: off by {error:.1e}, allowed {limit:.1e}"


every_cell = pytest.mark.parametrize("cell", CELLS)


@every_cell
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("weigh", [(True, True), (True, False), (False, True)], ids=str)
def test_equals_the_reference(cell, shape, weigh) -> None:
    for dtype in TOLERANCE:
        given = make(cell, shape, dtype)
        want = differentiate(simple_rnn_reference, cell, given.to(torch.float64), weigh)
        assert_close(differentiate(simple_rnn, cell, given, weigh), want, dtype)


@pytest.fixture
def choose(monkeypatch) -> Callable[[str], None]:
    """Select the form of the cells with diagonal weights: c, torch or newton."""

    def choose(form: str) -> None:
        if form != "c":
            monkeypatch.setattr(c_form, "supports", lambda cell, x: False)
        if form == "newton":
            monkeypatch.setattr(ops, "torch_form", newton)

    return choose


@pytest.mark.parametrize(
    ("cell", "form"), [("paragru", "torch"), ("paralstm", "torch"), ("paragru", "newton")]
)
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_other_forms_equal_the_reference(cell, form, scale, choose) -> None:
    choose(form)
    given = make(cell, (3, 40, 5), torch.float64)
    given = given._replace(weight=scale * given.weight, projected=scale * given.projected)
    want = differentiate(simple_rnn_reference, cell, given)
    assert_close(differentiate(simple_rnn, cell, given), want, torch.float64)


def test_newton_converges_in_a_few_iterations_and_else_falls_back(choose, monkeypatch) -> None:
    choose("newton")
    given = make("paragru", (3, 200, 5), torch.float64)
    arguments = (given.projected, given.weight, given.state[0], given.start)
    want = simple_rnn_reference("paragru", *given)[0]
    for limit, converged in ((12, True), (2, False)):
        monkeypatch.setattr(newton, "MAX_ITERATIONS", limit)
        h, done = newton.solve("paragru", *arguments)
        assert done.all() == converged
        assert torch.allclose(h, want, atol=1e-12) == converged
        torch.testing.assert_close(simple_rnn("paragru", *given)[0], want, atol=1e-12, rtol=0)


@every_cell
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nothing_crosses_a_start(cell, bad) -> None:
    """Bad inputs before it do not affect later results, nor bad gradients after it earlier ones."""
    at = 4
    clean = make(cell, (2, 9, 5))
    clean.start[:, at] = True
    spoiled = clean._replace(
        projected=clean.projected.index_fill(1, torch.arange(at), bad),
        state=tuple(torch.full_like(s, bad) for s in clean.state),
    )

    def after(*arguments):
        h, last = simple_rnn(*arguments)
        return h[:, at:], last

    want, got = (differentiate(after, cell, each) for each in (clean, spoiled))
    states = CELLS[cell].states
    for g, w in zip(got[: 1 + states], want[: 1 + states], strict=True):
        assert torch.equal(g, w)
    assert not want[1 + states].isnan().any()
    assert torch.equal(got[1 + states][:, at:], want[1 + states][:, at:])

    def worsen(*arguments):
        h, last = simple_rnn(*arguments)
        return h * torch.where(torch.arange(9) < at, 1.0, bad)[:, None], last

    got = differentiate(worsen, cell, clean, (True, False))[1 + states :]
    assert not got[0][:, :at].isnan().any()
    assert all(gradient.isfinite().all() for gradient in got[2:])


@every_cell
def test_opcheck(cell) -> None:
    given = make(cell, (2, 4, 3), torch.float64)
    state = torch.cat(given.state, dim=-1)
    tensors = [x.requires_grad_() for x in (given.projected, given.weight, state)]
    torch.library.opcheck(ops.rnn, (cell, *tensors, given.start, 0.7))
    states = ops.rnn(cell, *tensors, given.start, 0.7).detach()
    fixed = [x.detach() for x in tensors]
    call = (cell, torch.randn_like(states), *fixed, given.start, states, 0.7)
    torch.library.opcheck(ops.rnn_backward, call)


@pytest.mark.parametrize("mapped", [(0, 2, 3, 4), (1,), (0, 1, 2, 3, 4)], ids=str)
def test_vmap(mapped) -> None:
    """Over arguments with rows, over weights, and over both; outputs and gradients."""
    examples = [make("lem", (2, 4, 3), torch.float64) for _ in range(3)]
    columns = zip(*((e.projected, e.weight, *e.state, e.start) for e in examples), strict=True)
    given = [torch.stack(c) if i in mapped else c[0] for i, c in enumerate(columns)]
    leaves = [x.requires_grad_() for x in given[:4]]

    def outputs(rnn, projected, weight, y, z, start):
        h, last = rnn("lem", projected, weight, (y, z), start)
        return torch.cat([h, *(s[:, None] for s in last)], dim=1)

    dims = tuple(0 if i in mapped else None for i in range(5))
    got = torch.vmap(partial(outputs, simple_rnn), dims)(*given)
    each = [[x[i] if d == 0 else x for x, d in zip(given, dims, strict=True)] for i in range(3)]
    want = torch.stack([outputs(simple_rnn_reference, *arguments) for arguments in each])
    torch.testing.assert_close(got, want)
    grads = [torch.autograd.grad(x.square().sum(), leaves) for x in (got, want)]
    torch.testing.assert_close(*grads)


def test_mixed_dtypes_are_promoted() -> None:
    given = make("mgu", (2, 3, 4))
    half = [x.bfloat16().requires_grad_() for x in given[:2]]
    h, last = simple_rnn("mgu", *half, *given[2:])
    assert h.dtype == last[0].dtype == torch.float32
    wide = simple_rnn("mgu", *(x.float() for x in half), *given[2:])[0]
    assert torch.equal(h, wide)
    assert all(g.dtype == torch.bfloat16 for g in torch.autograd.grad(h.sum(), half))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_lose_precision(dtype) -> None:
    given = make("lem", (2, 6, 8))
    want = differentiate(simple_rnn, "lem", given)
    with torch.autocast("cpu", dtype=dtype):
        assert_close(differentiate(simple_rnn, "lem", given), want, torch.float32)
        simple_rnn("lem", given.projected.to(dtype), *given[1:])


GIVEN = make("lem", (2, 3, 4))
P, W, S, START, _ = GIVEN


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("elmen", P, W, S, START), "unknown cell 'elmen'; did you mean elman"),
        (
            ("lem", P[0], W, S, START),
            r"projected must be \[B, T, 4 D\], each at least 1, not \[3, 16\]",
        ),
        (("lem", P[..., :3], W, S, START), r"must be \[B, T, 4 D\]"),
        (("lem", P, W[:1], S, START), r"weight must be \[4, 16\], not \[1, 16\]"),
        (("indrnn", P[..., :4], W, S[:1], START), r"weight must be \[4\], not \[4, 16\]"),
        (("lem", P, W, S[:1], START), "lem has 2 states, not 1"),
        (("lem", P, W, (S[0], S[1][:1]), START), r"state\[1\] must be \[2, 4\], not \[1, 4\]"),
        (("lem", P, W, S, START[:, :2]), r"start must be \[2, 3\], not \[2, 2\]"),
        (("lem", P, W, S, START.float()), "start must be torch.bool, not torch.float32"),
        (("lem", P.half(), W, S, START), "projected is torch.float16; allowed are"),
        (("lem", P.to("meta"), W, S, START), "must be on one device"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bad_arguments_raise_an_error(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        simple_rnn(*arguments)
