"""Statistics of scores: by hand, against scipy, and the coverage of intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap, mannwhitneyu, norm, trim_mean, ttest_1samp

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


def test_bootstrap_is_that_of_scipy():
    scores = np.random.default_rng(3).normal(size=(3, 40))
    found = stats.estimate(stats.iqm, scores, seed=5)

    def pooled(*runs, axis=-1):
        return stats.iqm(np.concatenate(runs, axis=axis))

    interval = bootstrap(
        list(scores), pooled, n_resamples=stats.RESAMPLES, batch=stats.MAX_BATCH_NUMBERS // 120,
        method="percentile", rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_interval_over_runs_is_students():
    values = np.array([0.2, 0.5, 0.9])
    found = stats.over_runs(values)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert found == pytest.approx((values.mean(), expected.low, expected.high))
    assert stats.over_runs(values[:1]) == (0.2, 0.2, 0.2)


def test_probability_of_improvement_is_mann_whitneys_mean_over_tasks():
    rng = np.random.default_rng(2)
    x = [rng.normal(0.3, 1, 4), rng.normal(-0.2, 1, 3)]
    y = [rng.normal(0, 1, 5), rng.normal(0, 1, 2)]
    pairs = zip(x, y, strict=True)
    each = [mannwhitneyu(a, b).statistic / (len(a) * len(b)) for a, b in pairs]
    found = stats.probability_of_improvement(x, y)
    assert found.value == pytest.approx(np.mean(each))
    assert found.low < found.value < found.high
    back = stats.probability_of_improvement(y, x)
    assert back.value == pytest.approx(1 - found.value)
    # Ties count one half, and equal runs have nothing to resample.
    assert stats.probability_of_improvement([np.ones(3)], [np.ones(2)]) == (0.5, 0.5, 0.5)


def test_aggregate_resamples_runs_within_their_task():
    # Resampling across tasks would mix 0 and 10.
    found = stats.aggregate(stats.mean, [np.array([0.0, 0.1, 0.2]), np.array([10.0])])
    assert found.value == pytest.approx(10.3 / 4)
    assert 10 / 4 <= found.low <= found.high <= 10.6 / 4


def test_performance_profile_by_hand():
    tasks = [np.array([0.0, 0.5]), np.array([1.0, 1.0, 1.0, 0.2])]
    value, low, high = stats.performance_profile(tasks, np.array([-1.0, 0.1, 0.5, 1.0]))
    # Above 0.5 are none of two runs of one task, and three of four of the other.
    np.testing.assert_allclose(value, [1.0, 0.75, 0.375, 0.0])
    assert (low <= value).all()
    assert (value <= high).all()
    assert low[1] < value[1] < high[1]
    assert (low[[0, 3]] == high[[0, 3]]).all()
