"""Statistics by hand, and that no value changes because they do."""

from __future__ import annotations

import pytest
import torch

from rlmem.algos.popart import PopArt
from rlmem.errors import UsageError

EVERYTHING = torch.ones(2, dtype=torch.bool)


def test_statistics_by_hand():
    popart = PopArt(2, beta=0.5)
    popart.update(torch.tensor([[1.0, 10.0], [3.0, 10.0]]), EVERYTHING)
    # The first targets count in full: beta_1 = 0.5 / (1 - 0.5).
    assert popart.mean.tolist() == [2, 10]
    assert popart.deviation.tolist() == pytest.approx([1, 0.01])  # never less than RANGE[0]
    popart.update(torch.tensor([[5.0, 10.0], [5.0, 16.0]]), EVERYTHING)
    # beta_2 = 0.5 / (1 - 0.25) = 2/3: mean 2/3 + 2/3 * 5 and 10/3 + 2/3 * 13.
    assert popart.mean.tolist() == pytest.approx([4, 12])
    # Squares: 5/3 + 2/3 * 25 - 16 = 7/3, and 100/3 + 2/3 * 178 - 144 = 8.
    assert popart.deviation.tolist() == pytest.approx([(7 / 3) ** 0.5, 8**0.5])
    value = torch.tensor([[4.0, 12.0], [4 + (7 / 3) ** 0.5, 12 - 8**0.5]])
    normal = popart.normalise(value)
    torch.testing.assert_close(normal, torch.tensor([[0.0, 0.0], [1.0, -1.0]]))
    torch.testing.assert_close(popart.denormalise(normal), value)


def test_what_is_masked_is_not_seen():
    popart, other = PopArt(1, 0.1), PopArt(1, 0.1)
    target = torch.tensor([[1.0], [torch.nan], [2.0], [torch.inf]])
    popart.update(target, torch.tensor([True, False, True, False]))
    other.update(target[[0, 2]], EVERYTHING)
    assert popart.mean == other.mean
    assert popart.deviation == other.deviation


def test_values_stay_when_the_statistics_change():
    popart = PopArt(3, beta=0.1)
    said = torch.randn(20, 3)
    first = popart.update(torch.randn(50, 3) - 7, torch.ones(50) > 0)
    assert [change.tolist() for change in first] == [[1, 1, 1], [0, 0, 0]]
    for scale in (1.0, 1000.0, 0.05):
        before = popart.denormalise(said)
        change, shift = popart.update(scale * torch.randn(50, 3) + scale, torch.ones(50) > 0)
        said = change * said + shift
        torch.testing.assert_close(popart.denormalise(said), before, atol=1e-3, rtol=1e-4)


def test_large_values_that_hardly_differ():
    popart = PopArt(1, beta=0.01)
    target = 1e6 + torch.tensor([[-0.5], [0.5]])
    for _ in range(10):
        popart.update(target, EVERYTHING)
    assert popart.deviation.item() == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("beta", [0.0, 1.5])
def test_bad_options_get_a_clear_line(beta: float):
    with pytest.raises(UsageError, match="popart_beta must be above 0 and at most 1"):
        PopArt(1, beta)
