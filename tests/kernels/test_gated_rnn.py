"""The gated recurrent networks against their definition: outputs, states, all gradients."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from itertools import product
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from rlmem.kernels import gated_rnn, native
from rlmem.kernels.gated_rnn import CELLS, c_form, gated_rnn_reference, ops, tiles, torch_form

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11}
# Rows, time, heads, units: one each; odd; several work items; more units than a vector has.
SHAPES = [(1, 1, 1, 1), (2, 7, 3, 5), (35, 3, 1, 16), (3, 4, 2, 33)]


class Inputs(NamedTuple):
    """The arguments of `gated_rnn`, without the cell."""

    projected: Tensor
    weight: Tensor
    bias: Tensor
    state: tuple[Tensor, ...]
    start: Tensor | None

    def to(self, dtype: torch.dtype) -> Inputs:
        state = tuple(s.to(dtype) for s in self.state)
        return Inputs(*(x.to(dtype) for x in self[:3]), state, self.start)

    def leaves(self) -> list[Tensor]:
        return [*self[:3], *self.state]


def make(
    cell: str,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    start: bool = True,
) -> Inputs:
    """A row with a first state. Starts include a row's first step and adjacent steps."""
    rows, time, heads, width = shape
    kind = CELLS[cell]
    state = [torch.randn(rows, heads, width) for _ in range(kind.states)]
    if kind.states == 4:
        state[2] = state[2].abs() + 0.5
        state[2][-1] = 0  # without a stabiliser
    starts = torch.rand(rows, time) < 0.3
    starts[0, 0] = True
    return Inputs(
        torch.randn(rows, time, heads, kind.gates * width),
        torch.randn(heads, width, kind.gates * width) / width**0.5,
        torch.randn(heads, 4 * width),
        tuple(state),
        starts if start else None,
    ).to(dtype)


def differentiate(
    rnn: Callable[..., tuple[Tensor, tuple[Tensor, ...]]],
    cell: str,
    given: Inputs,
    weigh: tuple[bool, bool] = (True, True),
) -> list[Tensor]:
    """h, the last state, and the gradients of a weighted sum of both, or of one of them."""
    leaves = [x.detach().clone().requires_grad_() for x in given.leaves()]
    h, last = rnn(cell, *leaves[:3], tuple(leaves[3:]), given.start)
    weighed = [h] * weigh[0] + [*last] * weigh[1]
    loss = torch.zeros((), dtype=h.dtype)
    for x in weighed:
        weight = torch.linspace(-1.0, 1.3, x.numel(), dtype=x.dtype).reshape(x.shape)
        loss = loss + (x * weight).sum()
    grads = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return [h.detach(), *(s.detach() for s in last), *grads]


def assert_close(got: list[Tensor], want: list[Tensor], dtype: torch.dtype) -> None:
    assert len(got) == len(want)
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        assert g.dtype == dtype
        limit = TOLERANCE[dtype] * max(1.0, w.abs().max().item())
        error = (g.to(w.dtype) - w).abs().max().item()
        assert error <= limit, f"result {i}: off by {error:.1e}, allowed {limit:.1e}"


LEVELS = range(native.lib.rlmem_gated_rnn_level() + 1) if native.AVAILABLE else range(0)
FORMS = [pytest.param(torch_form, None, id="torch")]
FORMS += [pytest.param(c_form, level, id=f"level{level}") for level in LEVELS]


@pytest.fixture
def use_form(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType, int | None], None]:
    """Select the form and the vector width of the C kernels."""

    def choose(form: ModuleType, level: int | None) -> None:
        monkeypatch.setattr(tiles, "supports", lambda x: form is c_form)
        if level is not None:
            monkeypatch.setattr(tiles, "level", lambda: level)

    return choose


@pytest.fixture(autouse=True)
def _poison() -> Iterator[None]:
    """Uninitialised memory holds NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("form", "level"), FORMS)
def test_equals_the_reference(use_form, cell, shape, form, level) -> None:
    use_form(form, level)
    for dtype, start in product(TOLERANCE, (True, False)):
        given = make(cell, shape, dtype, start)
        want = differentiate(gated_rnn_reference, cell, given.to(torch.float64))
        assert_close(differentiate(gated_rnn, cell, given), want, dtype)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("weigh", [(True, False), (False, True)], ids=["h", "last"])
@pytest.mark.parametrize("form", [c_form, torch_form])
def test_a_gradient_from_one_result_only(use_form, cell, weigh, form) -> None:
    use_form(form, None)
    given = make(cell, (2, 5, 2, 3), torch.float64)
    want = differentiate(gated_rnn_reference, cell, given, weigh)
    assert_close(differentiate(gated_rnn, cell, given, weigh), want, torch.float64)


@pytest.mark.parametrize("cell", CELLS)
def test_threads_give_the_same_result(cell) -> None:
    given = make(cell, (37, 40, 2, 32))
    assert given.projected.numel() * 32 >= tiles.MIN_WORK
    one = differentiate(gated_rnn, cell, given)
    torch.set_num_threads(3)
    try:
        three = differentiate(gated_rnn, cell, given)
    finally:
        torch.set_num_threads(1)
    assert_close(three, [x.double() for x in one], torch.float32)


@pytest.mark.parametrize("cell", CELLS)
def test_missing_arguments_are_zero(cell) -> None:
    given = make(cell, (2, 4, 2, 3), torch.float64)
    zeros = tuple(torch.zeros_like(s) for s in given.state)
    none = torch.zeros(2, 4, dtype=torch.bool)
    for rnn in (gated_rnn, gated_rnn_reference):
        h, last = rnn(cell, given.projected, given.weight)
        want, final = gated_rnn(
            cell, given.projected, given.weight, torch.zeros_like(given.bias), zeros, none
        )
        torch.testing.assert_close((h, *last), (want, *final))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(("form", "level"), FORMS)
def test_nothing_crosses_a_start(use_form, cell, bad, form, level) -> None:
    """Bad inputs before it do not affect later results, nor bad gradients after it earlier ones."""
    use_form(form, level)
    at = 4
    clean = make(cell, (2, 9, 2, 5))
    clean.start[:, at] = True
    kind = CELLS[cell]
    spoiled = clean._replace(
        projected=clean.projected.index_fill(1, torch.arange(at), bad),
        state=tuple(torch.full_like(s, bad) for s in clean.state),
    )
    after = [
        differentiate(lambda *a: cut(gated_rnn(*a), at), cell, each) for each in (clean, spoiled)
    ]
    for i in range(kind.states + 1):
        assert torch.equal(after[1][i], after[0][i])
    grads = [each[kind.states + 1][:, at:] for each in after]
    assert not grads[0].isnan().any()
    assert torch.equal(*grads)

    def worsen(*a):
        h, last = gated_rnn(*a)
        return h * torch.where(torch.arange(9) < at, 1.0, bad)[:, None, None], last

    got, want = (
        differentiate(rnn, cell, clean, (True, False))[kind.states + 1 :]
        for rnn in (worsen, lambda *a: keep(gated_rnn(*a), at))
    )
    assert torch.equal(got[0][:, :at], want[0][:, :at])
    for g, w in zip(got[3:], want[3:], strict=True):
        assert torch.equal(g, w)


def cut(results, at: int):
    """The results after step `at`."""
    return results[0][:, at:], results[1]


def keep(results, at: int):
    """The results before step `at`, with the whole row's weights."""
    h, last = results
    return torch.cat([h[:, :at], torch.zeros_like(h[:, at:])], dim=1), last


@pytest.mark.parametrize("level", LEVELS)
def test_elementary_functions_are_accurate(use_form, level) -> None:
    """Without a matrix, an LSTM's step is s and tanh of its inputs."""
    use_form(c_form, level)
    x = torch.cat([torch.linspace(-80, 80, 4096), torch.logspace(-6, 0, 1024)]).reshape(80, 1, 64)
    state = torch.zeros(80, 1, 64), torch.ones(80, 1, 64)
    zeros = torch.zeros_like(x)
    gates = torch.stack([zeros, x, zeros, x], dim=2).reshape(80, 1, 1, 256)
    _, (h, c) = gated_rnn("lstm", gates, torch.zeros(1, 64, 256), None, state)
    forget = x.double().sigmoid()
    torch.testing.assert_close(c.double(), forget, rtol=5e-7, atol=0)
    torch.testing.assert_close(h.double(), forget * c.double().tanh(), rtol=5e-7, atol=1e-37)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("extreme", [50.0, -50.0])
def test_extreme_gates_and_long_rows_stay_finite(cell, extreme) -> None:
    given = make(cell, (1, 10_000, 1, 4))
    gates = given.projected.unflatten(-1, (-1, 4))
    for gate in range(gates.shape[-2]):
        gates[:, gate * 2_000 : gate * 2_000 + 1_500, :, gate] += extreme
    given = given._replace(start=torch.rand(1, 10_000) < 2e-4)
    assert all(x.isfinite().all() for x in differentiate(gated_rnn, cell, given))


@pytest.mark.parametrize(("cell", "start"), [("gru", True), ("slstm", False)])
def test_opcheck(cell, start) -> None:
    torch.use_deterministic_algorithms(False)
    given = make(cell, (2, 4, 2, 3), torch.float64, start)
    arguments = [x.requires_grad_() for x in (*given[:3], torch.stack(given.state, dim=1))]
    torch.library.opcheck(ops.rnn, (cell, *arguments, given.start, True))
    h, last, activations, saved_states = (
        x.detach() for x in ops.rnn(cell, *arguments, given.start, True)
    )
    for grads in ((h, last), (None, last), (h, None)):
        weight, state = (x.detach() for x in (arguments[1], arguments[3]))
        call = (cell, *grads, weight, state, given.start, h, activations, saved_states)
        torch.library.opcheck(ops.rnn_backward, call)


@pytest.mark.parametrize("save", [True, False])
def test_nothing_is_saved_without_gradients(save) -> None:
    given = make("lstm", (2, 4, 1, 3))
    state = torch.stack(given.state, dim=1)
    results = ops.rnn("lstm", *given[:3], state, given.start, save)
    assert [x.numel() for x in results[2:]] == ([2 * 4 * 12, 2 * 4 * 3] if save else [0, 0])
    # If a gradient is requested later, its inputs are computed again.
    projected = given.projected.requires_grad_()
    h = ops.rnn("lstm", projected, *given[1:3], state, given.start, save)[0]
    (grad,) = torch.autograd.grad(h.sum(), projected)
    want = gated_rnn_reference("lstm", projected, *given[1:])[0]
    torch.testing.assert_close(grad, torch.autograd.grad(want.sum(), projected)[0])


@pytest.mark.parametrize("mapped", ["projected", "weight", "state", "all"])
def test_vmap(mapped) -> None:
    """Over arguments with rows and over weights; outputs and gradients."""
    examples = [make("slstm", (2, 4, 2, 3), torch.float64) for _ in range(3)]
    names = ("projected", "weight", "bias", "state", "start")
    chosen = [mapped in (name, "all") for name in names]
    stacked, dims = [], []
    for i, name in enumerate(names):
        given = [getattr(each, name) for each in examples]
        if name == "state":
            part = tuple(map(torch.stack, zip(*given, strict=True))) if chosen[i] else given[0]
        else:
            part = torch.stack(given) if chosen[i] else given[0]
        stacked.append(part)
        dims.append(0 if chosen[i] else None)
    projected = stacked[0].requires_grad_()
    h, last = torch.vmap(lambda *a: gated_rnn("slstm", *a), tuple(dims))(projected, *stacked[1:])
    for i in range(3):
        each = [
            tuple(s[i] for s in x) if c and isinstance(x, tuple) else x[i] if c else x
            for x, c in zip(stacked, chosen, strict=True)
        ]
        want, final = gated_rnn_reference("slstm", *each)
        torch.testing.assert_close((h[i], *(s[i] for s in last)), (want, *final))
        grads = [
            torch.autograd.grad(x.sum(), projected, retain_graph=True)[0] for x in (h[i], want)
        ]
        torch.testing.assert_close(*grads)


def test_mixed_dtypes_are_promoted() -> None:
    given = make("gru", (2, 3, 1, 4))
    half = [x.bfloat16().requires_grad_() for x in given[:3]]
    h, last = gated_rnn("gru", *half, given.state, given.start)
    assert h.dtype == last[0].dtype == torch.float32
    wide = gated_rnn("gru", *(x.float() for x in half), given.state, given.start)[0]
    assert torch.equal(h, wide)
    grads = torch.autograd.grad(h.sum(), half)
    assert all(g.dtype == torch.bfloat16 for g in grads)


GIVEN = make("lstm", (2, 3, 2, 4))
P, W, B, S, START = GIVEN


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lstn", P, W), "unknown cell 'lstn'; did you mean lstm"),
        (
            ("lstm", P[0], W),
            r"projected must be \[B, T, H, 4 D\], each at least 1, not \[3, 2, 16\]",
        ),
        (("gru", P, W), r"must be \[B, T, H, 3 D\]"),
        (("lstm", P, W[:1]), r"weight must be \[2, 4, 16\], not \[1, 4, 16\]"),
        (("lstm", P, W, B[:, :3]), r"bias must be \[2, 16\], not \[2, 3\]"),
        (("lstm", P, W, B, S[:1]), "state of lstm must be 2 tensors, not 1"),
        (("lstm", P, W, B, (S[0], S[1][:1])), r"state\[1\] must be \[2, 2, 4\], not \[1, 2, 4\]"),
        (("lstm", P, W, B, S, START[:, :2]), r"start must be \[2, 3\], not \[2, 2\]"),
        (("lstm", P, W, B, S, START.float()), "start must be torch.bool, not torch.float32"),
        (("lstm", P.half(), W), "projected is torch.float16; allowed are"),
        (("lstm", P.to("meta"), W), "must be on one device"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bad_arguments_raise_an_error(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        gated_rnn(*arguments)


def test_forms_take_the_same_arguments() -> None:
    for name in ("forward", "backward"):
        signatures = [
            list(inspect.signature(getattr(m, name)).parameters) for m in (c_form, torch_form)
        ]
        # C alone has products of bfloat16.
        assert signatures[0] == [*signatures[1], "narrow"]
