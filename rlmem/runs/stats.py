"""Statistics of few runs on many tasks (Agarwal et al. 2021, arXiv 2108.13264).

Scores are [R, M]: R runs that played the same M tasks with the same seeds. An interval is a 95 %
percentile bootstrap, stratified by run: M tasks are resampled within each run, so each run keeps
its weight. The interval measures the variation due to the sampled tasks, for these runs only.
`RunSpread` lists the value of each run, as few runs do not allow a reliable interval over runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rlmem.errors import need

CONFIDENCE = 0.95
RESAMPLES = 2000
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


def spread(statistic: Statistic, scores: Float[ndarray, "R M"]) -> RunSpread:
    """`statistic` of each run."""
    return RunSpread([float(value) for value in statistic(np.asarray(scores, float))])


def _bootstrap(statistic: Statistic, strata: list[ndarray], seed: int) -> Estimate:
    need("scipy", "a bootstrap interval", "train")
    from scipy.stats import bootstrap

    value = float(statistic(*strata, axis=-1))
    if strata[0].size < 2 or all(np.ptp(stratum) == 0 for stratum in strata):
        return Estimate(value, value, value)
    interval = bootstrap(
        strata,
        statistic,
        n_resamples=RESAMPLES,
        batch=max(1, MAX_BATCH_NUMBERS // sum(stratum.size for stratum in strata)),
        vectorized=True,
        axis=-1,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))
