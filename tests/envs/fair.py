"""Whether numbers are distributed as they should be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import stats
from torch import Tensor

# Seeds are fixed, so a test that passes does so always; a wrong distribution is far below this.
LEAST = 1e-3


def assert_frequencies(values: Tensor, probabilities: Sequence[float] | np.ndarray) -> None:
    """Chi-square: integers 0.. come as often as they should."""
    expected = np.asarray(probabilities, float)
    counts = torch.bincount(values.flatten().long(), minlength=len(expected)).numpy()
    assert len(counts) == len(expected)
    assert not counts[expected == 0].any()
    possible = expected > 0
    # Rounding must not make the sums differ.
    wanted = expected[possible] * counts.sum() / expected.sum()
    assert stats.chisquare(counts[possible], wanted).pvalue > LEAST


def assert_uniform(values: Tensor, size: int) -> None:
    """Chi-square: integers of [0, size) come equally often."""
    assert_frequencies(values, np.full(size, 1 / size))


def assert_follows(values: Tensor, distribution: str) -> None:
    """Kolmogorov and Smirnov: numbers follow a distribution of scipy's by that name."""
    assert stats.kstest(values.flatten().double().numpy(), distribution).pvalue > LEAST


def assert_independent(a: Tensor, b: Tensor) -> None:
    """Chi-square: numbers of [0, 1) know nothing of each other, in their first four bits."""
    cells = (a * 16).long() * 16 + (b * 16).long()
    assert_uniform(cells, 256)


def without_replacement(counts: Sequence[int]) -> np.ndarray:
    """How likely two cards in turn are of kinds (i, j), as [kinds * kinds]: `counts` of each."""
    held = np.asarray(counts, float)
    pairs = held[:, None] * (held - np.eye(len(held)))
    return (pairs / pairs.sum()).flatten()
