"""Gated networks under autocast: products of bfloat16 in C, states and sums in float32."""

from __future__ import annotations

import pytest
import torch

from rlmem.kernels import gated_rnn
from rlmem.kernels.gated_rnn import CELLS, c_form, gated_rnn_reference
from tests.kernels.test_gated_rnn import SHAPES, differentiate, make

bf16 = torch.autocast("cpu", torch.bfloat16, cache_enabled=False)
pytestmark = pytest.mark.skipif(
    not c_form.narrow_available(torch.empty(1)), reason="no AVX512-BF16, or the C was not built"
)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", [*SHAPES[1:], (20, 5, 2, 40)], ids=str)
def test_results_are_near_the_reference(cell: str, shape: tuple[int, ...]) -> None:
    given = make(cell, shape, torch.float32, True)
    want = differentiate(gated_rnn_reference, cell, given.to(torch.float64))
    plain = differentiate(gated_rnn, cell, given)
    with bf16:
        got = differentiate(gated_rnn, cell, given)
    for one, other in zip(got, want, strict=True):
        assert one.dtype == torch.float32
        error = (one - other).norm() / other.norm().clamp(min=0.1)
        # An sLSTM divides by its normaliser, which may be near 0 in a random state.
        assert error < (0.3 if "slstm" in cell else 0.02)
    assert not torch.equal(got[0], plain[0]), "nothing was rounded"


@pytest.mark.parametrize("cell", CELLS)
def test_nothing_crosses_a_start(cell: str) -> None:
    given = make(cell, (3, 6, 1, 20), torch.float32, True)
    start = torch.zeros(3, 6, dtype=torch.bool)
    start[1, 3] = True
    given = given._replace(start=start)
    with bf16:
        want, _ = gated_rnn(cell, *given.leaves()[:3], tuple(given.leaves()[3:]), start)
        bad = given.leaves()[0].clone()
        bad[1, 1] = torch.nan
        got, _ = gated_rnn(cell, bad, *given.leaves()[1:3], tuple(given.leaves()[3:]), start)
    assert torch.equal(got[[0, 2]], want[[0, 2]])
    assert torch.equal(got[1, 3:], want[1, 3:])
    assert got[1, 2].isnan().all()


def test_float64_keeps_its_products() -> None:
    given = make("gru", (3, 6, 1, 20), torch.float64, True)
    want = differentiate(gated_rnn, "gru", given)
    with bf16:
        assert all(map(torch.equal, differentiate(gated_rnn, "gru", given), want))
