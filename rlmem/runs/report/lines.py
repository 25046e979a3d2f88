"""Curves of runs as lines of few points: the mean and the extremes of equal buckets of steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rlmem.runs import plot, plot_style
from rlmem.runs.compare import Group
from rlmem.runs.learning_curves import MOST_CURVES, binned
from rlmem.runs.plot_style import Look
from rlmem.runs.records import Curve, Evaluations, Record
from rlmem.runs.report.chart import Chart, Line

BUCKETS = 480
# A curve is smoothed over this share of its buckets.
SMOOTHED = 1 / 20
SMALL = 150
# Standard errors of a 95 % interval.
NORMAL = 1.96


def extremes(
    curve: Curve, edges: Float[ndarray, " K1"]
) -> tuple[Float[ndarray, " K"], Float[ndarray, " K"]]:
    """The lowest and the highest return of the rows in each bucket of steps.

    Buckets between two others that have no row are interpolated; NaN outside of the curve.
    """
    count = len(edges) - 1
    place = np.clip(np.searchsorted(edges, curve.steps, side="left") - 1, 0, count - 1)
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, place, curve.returns)
    np.maximum.at(high, place, curve.returns)
    filled = np.flatnonzero(np.isfinite(low))
    where = np.arange(count)
    low, high = (
        np.interp(where, filled, each[filled], left=np.nan, right=np.nan) for each in (low, high)
    )
    return low, high


def line(name: str, runs: Sequence[Record], last: float, look: Look) -> Line:
    """The smoothed mean of the training returns of some runs, and the extremes of all their rows.

    `last` is the last step of the chart. Returns that are not finite are left out.
    """
    curves = [finite(run.curve) for run in runs]
    curves = [curve for curve in curves if len(curve.steps)]
    if not curves:
        empty = np.array([])
        return Line(name, empty, empty, empty, empty, look)
    # A run with few rows has a bucket for each; shorter runs have wider ones.
    edges = np.linspace(0, last, min(BUCKETS, max(len(each.steps) for each in curves)) + 1)
    means = np.stack([binned(curve, edges) for curve in curves])
    bounds = np.stack([extremes(curve, edges) for curve in curves])  # [R, 2, K]
    known = np.isfinite(means).any(axis=0)
    window = max(1, round(SMOOTHED * (len(edges) - 1)))
    mean = plot_style.smooth(np.nanmean(means[:, known], axis=0), window)
    low = np.nanmin(bounds[:, 0, known], axis=0)
    high = np.nanmax(bounds[:, 1, known], axis=0)
    return Line(name, edges[1:][known], mean, low, high, look)


def finite(curve: Curve) -> Curve:
    """The rows of a curve with a number as return."""
    kept = np.isfinite(curve.returns)
    return Curve(*(column[kept] for column in curve))


def learning(groups: Sequence[Group]) -> list[Chart]:
    """The learning curves of all groups, one chart per environment with at most eight lines."""
    panels: dict[str, list[Group]] = defaultdict(list)
    for each in groups:
        if any(len(run.curve.steps) for run in each.runs):
            panels[each.env].append(each)
    # Groups are sorted by score: the best ones are shown.
    shown = {env: members[:MOST_CURVES] for env, members in panels.items()}
    chosen = plot_style.looks([each.label for each in members] for members in shown.values())
    charts = []
    for env, members in shown.items():
        last = last_step([run for each in members for run in each.runs])
        names = shortened([each.label for each in members])
        lines = [
            line(_counted(name, each), each.runs, last, chosen[each.label])
            for name, each in zip(names, members, strict=True)
        ]
        hidden = len(panels[env]) - len(members)
        note = f"The best {len(members)} groups; {hidden} more are below." if hidden else ""
        levels = _levels(members[0].runs[0])
        charts.append(
            Chart(env, "environment steps", "return in training", lines, levels, note=note)
        )
    return charts


def shortened(labels: Sequence[str]) -> list[str]:
    """The labels without the words that all of them have."""
    common = set.intersection(*(set(label.split()) for label in labels))
    short = [" ".join(word for word in label.split() if word not in common) for label in labels]
    return short if len(labels) > 1 and all(short) else list(labels)


def _counted(name: str, each: Group) -> str:
    count = sum(len(run.curve.steps) > 0 for run in each.runs)
    return f"{name} ({count} runs)" if count > 1 else name


def _levels(run: Record) -> dict[str, float]:
    if run.reference is None or run.memoryless is None:
        return {}
    return {"optimum": run.reference.optimal, "best without memory": run.memoryless}


def last_step(runs: Sequence[Record]) -> float:
    """The last step of the runs that have a training return."""
    return float(max(run.curve.steps[-1] for run in runs if len(run.curve.steps)))


def single(name: str, run: Record) -> Chart:
    """The curve of one run, small."""
    look = Look(plot_style.COLORS[0])
    drawn = line(name, [run], last_step([run]), look)
    title = f"{name}: last {run.curve.returns[-1]:.3f}"
    return Chart(title, "steps", "", [drawn], height=SMALL, small=True)


def evaluations(found: Mapping[str, Evaluations]) -> list[Chart]:
    """Evaluations during training by run, with normal 95 % intervals; five lines a chart."""
    names = list(found)
    parts = [names[i : i + plot.MOST_LINES] for i in range(0, len(names), plot.MOST_LINES)]
    charts = []
    for part in parts:
        chosen = plot_style.looks([part])
        lines = []
        for name in part:
            steps, means, errors = found[name]
            half = NORMAL * errors
            lines.append(
                Line(name, steps.astype(float), means, means - half, means + half, chosen[name])
            )
        charts.append(Chart("", "environment steps", "mean greedy return", lines))
    return charts


def estimates(
    scores: Mapping[str, Sequence[Sequence[float]]],
    x: Sequence[float] | None = None,
) -> list[list[Line]]:
    """Lines of estimates (value, low, high), over 1, 2, ... or `x`: at most five in each list."""
    groups = plot.panels(list(scores))
    chosen = plot_style.looks([list(scores)])
    return [[_estimates(name, scores[name], x, chosen[name]) for name in part] for part in groups]


def _estimates(
    name: str, points: Sequence[Sequence[float]], x: Sequence[float] | None, look: Look
) -> Line:
    values = np.array(points, float).reshape(-1, 3)
    places = np.array(x, float) if x is not None else np.arange(1.0, len(values) + 1)
    window = len(values) // 20 if len(values) >= plot_style.MANY else 1
    return Line(
        name, places, plot_style.smooth(values[:, 0], window), values[:, 1], values[:, 2], look
    )
