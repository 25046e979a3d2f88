"""Statistics of scores: by hand, against scipy, and the coverage of intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm, trim_mean

from rlmem.runs import stats


def test_point_values_by_hand():
    scores = np.array([4.0, 0.0, 2.0, 100.0, 1.0, 3.0, -100.0, 2.0])
    assert stats.mean(scores) == 1.5
    # Two scores are dropped at each end: the mean of 1, 2, 2, 3.
    assert stats.iqm(scores) == 2.0
    # The lowest fifth of eight scores is two of them: -100 and 0.
    assert stats.worst(scores) == -50.0
    assert stats.worst(scores[:2]) == 0.0


def test_every_statistic_reduces_the_last_axis():
    scores = np.random.default_rng(0).normal(size=(3, 5, 16))
    for statistic in (stats.mean, stats.iqm, stats.worst):
        one_by_one = [[statistic(row) for row in rows] for rows in scores]
        np.testing.assert_allclose(statistic(scores), one_by_one)
    np.testing.assert_allclose(stats.iqm(scores), trim_mean(scores, 0.25, axis=-1))


def test_interval_of_the_mean_is_normal_for_many_tasks():
    scores = np.random.default_rng(1).normal(2.0, 3.0, size=(2, 400))
    found = stats.estimate(stats.mean, scores)
    half = norm.ppf(0.975) * np.sqrt(scores.var(axis=1).mean() / scores.size)
    assert found.value == pytest.approx(scores.mean())
    assert found.low == pytest.approx(scores.mean() - half, abs=0.03)
    assert found.high == pytest.approx(scores.mean() + half, abs=0.03)


def test_resampling_keeps_the_weight_of_every_run():
    # Two different runs with little variance each: resampling runs too would give [0, 10].
    rng = np.random.default_rng(2)
    scores = np.stack([rng.normal(0, 0.1, 50), rng.normal(10, 0.1, 50)])
    found = stats.estimate(stats.mean, scores)
    assert found.high - found.low < 0.1
    assert stats.spread(stats.mean, scores).values == pytest.approx(scores.mean(axis=1))


@pytest.mark.parametrize("statistic", [stats.mean, stats.iqm])
def test_intervals_cover_the_true_value_in_95_percent(statistic: stats.Statistic):
    rng = np.random.default_rng(3)
    found = [stats.estimate(statistic, rng.normal(size=(1, 60)), seed=k) for k in range(60)]
    covered = sum(low <= 0 <= high for _, low, high in found)
    # Fewer than 50 of 60 has probability 0.0001 at 95 %; 60 of 60 has 0.05.
    assert covered >= 50


def test_improvement_by_hand_and_against_mann_whitney():
    # Three tasks: a win, a loss, a tie.
    found = stats.improvement(np.array([[2.0, 0.0, 1.0]]), np.array([[1.0, 1.0, 1.0]]))
    assert found.value == 0.5
    # For a single task all pairs of runs count: the U statistic.
    rng = np.random.default_rng(4)
    x, y = rng.normal(1, 1, size=(9, 1)), rng.normal(0, 1, size=(7, 1))
    u = mannwhitneyu(x[:, 0], y[:, 0]).statistic / 63
    assert stats.improvement(x, y) == pytest.approx((u, u, u))


def test_a_single_task_has_no_interval():
    assert stats.estimate(stats.iqm, np.array([[3.0]])) == (3.0, 3.0, 3.0)
    assert stats.estimate(stats.mean, np.full((2, 5), 7.0)) == (7.0, 7.0, 7.0)


def test_the_same_seed_gives_the_same_interval():
    scores = np.random.default_rng(5).normal(size=(1, 30))
    assert stats.estimate(stats.iqm, scores, 1) == stats.estimate(stats.iqm, scores, 1)
    assert stats.estimate(stats.iqm, scores, 1) != stats.estimate(stats.iqm, scores, 2)
