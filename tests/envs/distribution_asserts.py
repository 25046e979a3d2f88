"""Assertions on the distribution of random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import stats
from torch import Tensor

# The smallest accepted p-value. Seeds are fixed; a wrong distribution is far below this.
LEAST = 1e-3


def assert_frequencies(values: Tensor, probabilities: Sequence[float] | np.ndarray) -> None:
    """Chi-square test of the frequencies of the integers 0, 1, ..."""
    expected = np.asarray(probabilities, float)
    counts = torch.bincount(values.flatten().long(), minlength=len(expected)).numpy()
    assert len(counts) == len(expected)
    assert not counts[expected == 0].any()
    possible = expected > 0
    # The sums must not differ by rounding.
    wanted = expected[possible] * counts.sum() / expected.sum()
    assert stats.chisquare(counts[possible], wanted).pvalue > LEAST


def assert_uniform(values: Tensor, size: int) -> None:
    """Chi-square test: integers in [0, size) are equally frequent."""
    assert_frequencies(values, np.full(size, 1 / size))


def assert_follows(values: Tensor, distribution: str) -> None:
    """Kolmogorov-Smirnov test against the scipy distribution of that name."""
    assert stats.kstest(values.flatten().double().numpy(), distribution).pvalue > LEAST


def assert_independent(a: Tensor, b: Tensor) -> None:
    """Chi-square test: the first four bits of numbers in [0, 1) are independent."""
    cells = (a * 16).long() * 16 + (b * 16).long()
    assert_uniform(cells, 256)


def without_replacement(counts: Sequence[int]) -> np.ndarray:
    """Probabilities [kinds * kinds] of two successive cards being of kinds (i, j)."""
    held = np.asarray(counts, float)
    pairs = held[:, None] * (held - np.eye(len(held)))
    return (pairs / pairs.sum()).flatten()
