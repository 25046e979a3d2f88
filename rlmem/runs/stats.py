"""Statistics of few runs on many tasks (Agarwal et al. 2021, arXiv 2108.13264).

Scores are [R, M]: R runs that played the same M tasks with the same seeds. An interval is a 95 %
percentile bootstrap, stratified by run: M tasks are resampled within each run, so each run keeps
its weight. The interval measures the variation due to the sampled tasks, for these runs only.
`RunSpread` lists the value of each run, as few runs do not allow a reliable interval over runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rlmem.errors import need

CONFIDENCE = 0.95
TAILS = [
    100 * ((1 - CONFIDENCE) / 2),
    100 * (1 - (1 - CONFIDENCE) / 2),
]  # percentiles of an interval
RESAMPLES = 2000
PROFILE_RESAMPLES = 500
# Limit on the numbers in memory: the bootstrap of many tasks resamples in batches.
MAX_BATCH_NUMBERS = 4_000_000

Statistic = Callable[..., Any]


class Estimate(NamedTuple):
    """A statistic with its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class RunSpread(NamedTuple):
    """A statistic of each single run."""

    values: list[float]

    def __str__(self) -> str:
        return ", ".join(f"{value:.3f}" for value in self.values)


def mean(scores: Float[ndarray, "*A N"]) -> Float[ndarray, "*A"]:
    """Mean over the last axis."""
    return np.asarray(np.mean(scores, axis=-1))


def iqm(scores: Float[ndarray, "*A N"]) -> Float[ndarray, "*A"]:
    """Interquartile mean over the last axis: drops the lowest and highest quarter of the scores.

    Drops floor(N / 4) scores at each end, like `scipy.stats.trim_mean` with 0.25.
    """
    cut = scores.shape[-1] // 4
    return np.asarray(np.sort(scores, axis=-1)[..., cut : scores.shape[-1] - cut].mean(axis=-1))


def worst(scores: Float[ndarray, "*A N"], fraction: float = 0.2) -> Float[ndarray, "*A"]:
    """Mean of the lowest `fraction` of the scores over the last axis (at least one score)."""
    count = max(1, round(fraction * scores.shape[-1]))
    return np.asarray(np.sort(scores, axis=-1)[..., :count].mean(axis=-1))


def estimate(statistic: Statistic, scores: Float[ndarray, "R M"], seed: int = 0) -> Estimate:
    """`statistic` (a function over the last axis) of all scores, with its interval.

    For a single task, or equal scores, the interval is the value itself.
    """

    def pooled(*runs: ndarray, axis: int = -1) -> Any:
        return statistic(np.concatenate(runs, axis=axis))

    return _bootstrap(pooled, list(np.asarray(scores, float)), seed)


def improvement(
    scores: Float[ndarray, "R M"], baseline: Float[ndarray, "Q M"], seed: int = 0
) -> Estimate:
    """Probability that a run beats the baseline on a task; a tie counts one half.

    It averages over all pairs of a run and a baseline run on the same task (Agarwal et al. 2021,
    section 4.3); the bootstrap resamples tasks.
    """
    x, y = np.asarray(scores, float)[:, None], np.asarray(baseline, float)[None]
    wins = ((x > y) + 0.5 * (x == y)).mean(axis=(0, 1))
    return _bootstrap(lambda wins, axis=-1: wins.mean(axis=axis), [wins], seed)


def over_runs(values: Float[ndarray, " R"]) -> Estimate:
    """The mean of the runs' values, with Student's t-interval over runs (as in POPGym's tables).

    The interval of a single run is the value itself: it says nothing about other seeds.
    """
    need("scipy", "an interval over runs", "train")
    from scipy.special import stdtrit

    values = np.asarray(values, float)
    center = float(values.mean())
    if len(values) < 2:
        return Estimate(center, center, center)
    error = values.std(ddof=1) / np.sqrt(len(values))
    half = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2) * error)
    return Estimate(center, center - half, center + half)


def aggregate(
    statistic: Statistic, tasks: Sequence[Float[ndarray, " _"]], seed: int = 0
) -> Estimate:
    """`statistic` of the normalised scores of all runs on all tasks (Agarwal et al. 2021, 4.3).

    `tasks` has the runs of each task, whose number may differ. The bootstrap is stratified: it
    resamples the runs within each task.
    """

    def pooled(*runs: ndarray, axis: int = -1) -> Any:
        return statistic(np.concatenate(runs, axis=axis))

    return _bootstrap(pooled, [np.asarray(task, float) for task in tasks], seed)


def probability_of_improvement(
    x: Sequence[Float[ndarray, " _"]], y: Sequence[Float[ndarray, " _"]], seed: int = 0
) -> Estimate:
    """Probability that a run of X beats a run of Y on a random task; a tie counts one half.

    For each task, it is the mean over all pairs of a run of X and a run of Y, the Mann-Whitney
    statistic (Agarwal et al. 2021, section 4.3); the bootstrap resamples runs of both within each
    task. `x` and `y` have the runs of the same tasks in the same order.
    """
    count = len(x)

    def wins(*runs: ndarray, axis: int = -1) -> Any:
        pairs = zip(runs[:count], runs[count:], strict=True)
        return sum(_wins(np.asarray(ours), np.asarray(theirs)) for ours, theirs in pairs) / count

    return _bootstrap(wins, [np.asarray(task, float) for task in (*x, *y)], seed)


def _wins(x: Float[ndarray, "*A R"], y: Float[ndarray, "*A Q"]) -> Float[ndarray, "*A"]:
    ahead = x[..., :, None] - y[..., None, :]
    return np.asarray(((ahead > 0) + 0.5 * (ahead == 0)).mean(axis=(-1, -2)))


def performance_profile(
    tasks: Sequence[Float[ndarray, " _"]], thresholds: Float[ndarray, " K"], seed: int = 0
) -> Float[ndarray, "3 K"]:
    """Fraction of runs with a score above each threshold, and its pointwise 95 % interval.

    Rows: value, low, high. Every task has the same weight (Agarwal et al. 2021, section 4.2, the
    score distribution); the bootstrap resamples runs within each task.
    """
    rng = np.random.default_rng(seed)
    value = np.zeros((1, len(thresholds)))
    resampled = np.zeros((PROFILE_RESAMPLES, len(thresholds)))
    for task in tasks:
        runs = np.asarray(task, float)
        above = (runs[:, None] > thresholds).astype(float)  # [R, K]
        chosen = rng.integers(len(runs), size=(PROFILE_RESAMPLES, len(runs)))
        weight = np.stack([(chosen == run).mean(axis=1) for run in range(len(runs))], axis=1)
        resampled += weight @ above / len(tasks)
        value += above.mean(axis=0) / len(tasks)
    return np.concatenate([value, np.percentile(resampled, TAILS, axis=0)])


def spread(statistic: Statistic, scores: Float[ndarray, "R M"]) -> RunSpread:
    """`statistic` of each run."""
    return RunSpread([float(value) for value in statistic(np.asarray(scores, float))])


def _bootstrap(statistic: Statistic, strata: list[ndarray], seed: int) -> Estimate:
    """`statistic` of the strata, with its percentile interval.

    Equal to `scipy.stats.bootstrap`, which takes a second to import, and refuses single scores.
    """
    value = float(statistic(*strata, axis=-1))
    if all(np.ptp(stratum) == 0 for stratum in strata):
        return Estimate(value, value, value)
    rng = np.random.default_rng(seed)
    batch = max(1, MAX_BATCH_NUMBERS // sum(stratum.size for stratum in strata))
    found = []
    for first in range(0, RESAMPLES, batch):
        count = min(batch, RESAMPLES - first)
        drawn = [
            stratum[rng.integers(stratum.size, size=(count, stratum.size))] for stratum in strata
        ]
        found.append(statistic(*drawn, axis=-1))
    low, high = np.percentile(np.concatenate(found), TAILS)
    return Estimate(value, float(low), float(high))
