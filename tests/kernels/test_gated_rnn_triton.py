"""The Triton kernels against the definition: on a GPU, or with TRITON_INTERPRET=1 on any machine.

`test_interpreter.py` runs this file in the interpreter, in a separate process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from rlmem.kernels import gated_rnn
from rlmem.kernels.gated_rnn import CELLS, torch_form
from tests.kernels.test_gated_rnn import Inputs, assert_close, differentiate, make

pytest.importorskip("triton", reason="Triton is for Linux only")
from rlmem.kernels.gated_rnn import triton_form

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = [
    # The interpreter computes in numpy, which warns about infinities and NaNs; a GPU does not.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    *([] if INTERPRETED else [pytest.mark.gpu]),
]
hardware = pytest.mark.skipif(INTERPRETED, reason="too large, or wrong, in the interpreter")


@pytest.fixture(autouse=True)
def _poison() -> Iterator[None]:
    """Uninitialised memory holds NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def both_passes(form, cell: str, given: Inputs, grads: tuple[Tensor | None, ...]) -> list[Tensor]:
    """All results of the form's forward and backward, on the device of `grads`."""
    device = next(g.device for g in grads if g is not None)
    projected, weight, bias = (x.to(device) for x in given[:3])
    state = torch.stack(given.state, dim=1).to(device)
    start = None if given.start is None else given.start.to(device)
    results = form.forward(cell, projected, weight, bias, state, start, True)
    h, _, activations, saved_states = results
    back = form.backward(cell, *grads, weight, state, start, h, activations, saved_states)
    return [x.cpu() for x in (*results, *back) if x.numel()]


def assert_equal_to_torch_form(cell: str, given: Inputs, which: str = "both") -> None:
    h = torch.randn(*given.projected.shape[:-1], given.weight.shape[1])
    last = torch.randn(len(h), CELLS[cell].states, *h.shape[2:])
    grads = (h if which != "last" else None, last if which != "h" else None)
    exact = tuple(None if g is None else g.double() for g in grads)
    want = both_passes(torch_form, cell, given.to(torch.float64), exact)
    there = tuple(None if g is None else g.to(DEVICE) for g in grads)
    assert_close(both_passes(triton_form, cell, given, there), want, torch.float32)


def rounded(given: Inputs, dtype: torch.dtype) -> Inputs:
    """With the projection and the weight in a narrow dtype."""
    return given._replace(projected=given.projected.to(dtype), weight=given.weight.to(dtype))


# One step; odd; more rows than a program has; matrices that are not kept on chip.
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (18, 3, 2, 5), (2, 3, 1, 80)], ids=str)
def test_equals_the_torch_form(cell: str, shape: tuple[int, ...]) -> None:
    assert_equal_to_torch_form(cell, make(cell, shape))


# Tiles of units in one program, and shared out over programs; more rows than a program has.
WIDE_SHAPES = [(18, 2, 1, 130), (2, 2, 2, 257)]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", WIDE_SHAPES, ids=str)
def test_wide_heads_equal_the_torch_form(cell: str, shape: tuple[int, ...]) -> None:
    assert_equal_to_torch_form(cell, make(cell, shape))


@pytest.mark.parametrize("which", ["h", "last"])
@pytest.mark.parametrize("cell", ["gru", "slstm"])
def test_wide_heads_with_a_single_gradient(cell: str, which: str) -> None:
    assert_equal_to_torch_form(cell, make(cell, (2, 4, 1, 130), start=False), which)


# bfloat16 is wrong in the interpreter, where float16 takes its place. The definition rounds h too.
NARROW, BOUND = (torch.float16, 3e-3) if INTERPRETED else (torch.bfloat16, 3e-2)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", [(3, 4, 1, 5), (2, 3, 1, 70), *WIDE_SHAPES], ids=str)
def test_products_of_narrow_factors(cell: str, shape: tuple[int, ...]) -> None:
    """Near the torch form on the same rounded projection and weight, in float64."""
    given = rounded(make(cell, shape), NARROW)
    h, last = torch.randn(*shape), torch.randn(shape[0], CELLS[cell].states, *shape[2:])
    wide = given.to(torch.float64)
    want = both_passes(torch_form, cell, wide, (h.double(), last.double()))
    got = both_passes(triton_form, cell, given, (h.to(DEVICE), last.to(DEVICE)))
    narrow = [i for i, x in enumerate(got) if x.dtype == NARROW]
    assert narrow == [len(got) - 4, len(got) - 3]  # the gradients of projection and weight
    for one, other in zip(got, want, strict=True):
        assert (one.double() - other).abs().max() <= BOUND * other.abs().max()


@pytest.mark.parametrize("cell", ["gru", "slstm"])
@pytest.mark.parametrize("which", ["h", "last"])
def test_no_starts_and_a_single_gradient(cell: str, which: str) -> None:
    assert_equal_to_torch_form(cell, make(cell, (2, 4, 1, 3), start=False), which)


def test_a_long_row() -> None:
    assert_equal_to_torch_form("slstm_exp", make("slstm_exp", (2, 33, 1, 4)))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("width", [3, 130])
def test_nothing_crosses_a_start(cell: str, width: int) -> None:
    """With NaN in all inputs before a start, later results do not change."""
    clean = make(cell, (2, 5, 1, width))
    clean.start[:, 3] = True
    spoiled = clean._replace(
        projected=clean.projected.index_fill(1, torch.arange(3), float("nan")),
        state=tuple(torch.full_like(s, float("nan")) for s in clean.state),
    )
    grads = (torch.randn(2, 5, 1, width, device=DEVICE), None)
    grads[0][:, :3] = 0
    want, got = (both_passes(triton_form, cell, each, grads) for each in (clean, spoiled))
    grad = -4  # of projected
    assert torch.equal(got[0][:, 3:], want[0][:, 3:])
    assert torch.equal(got[1], want[1])
    assert not want[grad].isnan().any()
    assert torch.equal(got[grad][:, 3:], want[grad][:, 3:])


@pytest.mark.parametrize("width", [4, 130])
def test_nothing_is_saved_unless_requested(width: int) -> None:
    given = make("lstm", (2, 3, 1, width))
    state = torch.stack(given.state, dim=1)
    tensors = [x.to(DEVICE) for x in (*given[:3], state, given.start)]
    results = [triton_form.forward("lstm", *tensors, save) for save in (False, True)]
    assert [x.numel() for x in results[0][2:]] == [0, 0]
    assert all(torch.equal(a, b) for a, b in zip(*(r[:2] for r in results), strict=True))


@hardware
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("width", [16, 32, 61, 64, 128, 200, 384])
def test_operator_equals_the_reference(cell: str, width: int) -> None:
    """Through the public function; widths for each configuration."""
    given = make(cell, (33, 65, 2, width))
    want = differentiate(gated_rnn, cell, given.to(torch.float64))
    there = Inputs(
        *(x.cuda() for x in given[:3]), tuple(s.cuda() for s in given.state), given.start.cuda()
    )
    with torch.device("cuda"):
        got = differentiate(gated_rnn, cell, there)
    assert_close([x.cpu() for x in got], want, torch.float32)


@hardware
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("width", [32, 64, 128, 200, 384])
def test_operator_under_autocast(cell: str, width: int) -> None:
    """Products of bfloat16; results and the gradients of float32 arguments are float32."""
    given = make(cell, (33, 20, 2, width))
    want = differentiate(gated_rnn, cell, given.to(torch.float64))
    there = Inputs(
        *(x.cuda() for x in given[:3]), tuple(s.cuda() for s in given.state), given.start.cuda()
    )
    with torch.device("cuda"), torch.autocast("cuda", torch.bfloat16):
        got = differentiate(gated_rnn, cell, there)
    for one, other in zip(got, want, strict=True):
        assert one.dtype == torch.float32
        assert (one.cpu().double() - other).abs().max() <= 5e-2 * other.abs().max()
