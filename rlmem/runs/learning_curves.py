"""Learning curves over runs, and performance profiles, as pictures for `rlmem compare`.

Line: the mean over runs, smoothed. Band: the lowest and highest run, not smoothed; a single run
has its own returns instead. Dotted: the optimum, and the best known score without memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rlmem.runs import plot_style, stats
from rlmem.runs.compare import Group
from rlmem.runs.plot_style import EndLabel, Look
from rlmem.runs.records import Curve

# A picture with more curves in one panel is not readable.
MOST_CURVES = 8
BINS = 200
# Bins of a smoothed value: a twentieth of the longest run.
WINDOW = 10
COLUMNS = 3


def binned(curve: Curve, edges: Float[ndarray, " K1"]) -> Float[ndarray, " K"]:
    """The mean return of the episodes in each bin of steps; NaN outside of the curve.

    Bins between two others that have no episode are interpolated.
    """
    count = len(edges) - 1
    place = np.clip(np.searchsorted(edges, curve.steps, side="left") - 1, 0, count - 1)
    episodes = np.bincount(place, curve.episodes, count)
    total = np.bincount(place, curve.episodes * curve.returns, count)
    filled = np.flatnonzero(episodes > 0)
    if not len(filled):
        return np.full(count, np.nan)
    means = total[filled] / episodes[filled]
    return np.interp(np.arange(count), filled, means, left=np.nan, right=np.nan)


def draw(groups: Sequence[Group], path: Path) -> Path:
    """Draw the curves of all groups into a PNG, one panel per environment."""
    panels: dict[str, list[Group]] = defaultdict(list)
    for each in groups:
        if any(len(run.curve.steps) for run in each.runs):
            panels[each.env].append(each)
    # Groups are sorted by score: the best ones are shown.
    shown = {env: members[:MOST_CURVES] for env, members in panels.items()}
    labels = [[each.label for each in members] for members in shown.values()]
    chosen = plot_style.looks(labels)
    figure, axes = _figure(len(panels), max(map(len, chain(*labels)), default=0))
    # Without any episode there is one empty panel.
    drawn = [
        (axis, *_panel(axis, env, members, len(panels[env]), chosen))
        for axis, (env, members) in zip(axes, shown.items(), strict=False)
    ]
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    # The labels of all panels change the room for each.
    for axis, ends, more in drawn:
        plot_style.label_ends(axis, ends, more)
    return plot_style.save(figure, path)


def draw_profiles(labels: Mapping[str, Sequence[ndarray]], path: Path) -> Path:
    """Draw performance profiles: the fraction of runs above each memory score."""
    thresholds = np.linspace(-0.1, 1.05, 116)
    shown = dict(list(labels.items())[:MOST_CURVES])
    chosen = plot_style.looks([list(shown)])
    figure, (axis,) = _figure(1)
    ends = []
    for name, tasks in shown.items():
        value, low, high = stats.performance_profile(tasks, thresholds)
        look = chosen[name]
        axis.step(thresholds, value, where="post", color=look.color, ls=look.dash, lw=1.8)
        axis.fill_between(thresholds, low, high, step="post", color=look.color, alpha=0.13, lw=0)
        ends.append((name, value, look))
    axis.set_xlim(thresholds[0], thresholds[-1])
    plot_style.describe(axis, "performance profile", "memory score", "fraction of runs above")
    plot_style.guides(axis)
    plot_style.legend_below(axis, {name: look for name, _, look in ends})
    return plot_style.save(figure, path)


def _panel(
    axis: Any, env: str, members: Sequence[Group], count: int, chosen: Mapping[str, Look]
) -> tuple[list[EndLabel], str]:
    """Draw some curves of the `count` of one environment; returns their labels, and a note."""
    last = max(run.curve.steps[-1] for each in members for run in each.runs if len(run.curve.steps))
    ends = [_group(axis, each, float(last), chosen[each.label]) for each in members]
    first = members[0].runs[0]
    if first.reference is not None and first.memoryless is not None:
        bounds = {"optimum": first.reference.optimal, "best without memory": first.memoryless}
        for text, value in bounds.items():
            axis.axhline(value, color=plot_style.GUIDE, ls=(0, (1, 2)), lw=1)
            ends.append(EndLabel(text, value, Look(plot_style.GUIDE)))
    axis.set_xlim(0, last)
    plot_style.describe(axis, env, "environment steps", "return in training")
    axis.xaxis.set_major_formatter(steps_text)
    plot_style.guides(axis)
    hidden = count - len(members)
    return ends, f"and {hidden} more" if hidden > 0 else ""


def _group(axis: Any, each: Group, last: float, look: Look) -> EndLabel:
    """Draw the smoothed mean of the runs and the band of all of them; returns the label."""
    edges = np.linspace(0, last, BINS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    seeds = np.stack([binned(r.curve, edges) for r in each.runs if len(r.curve.steps)])
    known = np.isfinite(seeds).any(axis=0)
    x, seeds = middle[known], seeds[:, known]
    mean = plot_style.smooth(np.nanmean(seeds, axis=0), WINDOW)
    axis.plot(x, mean, color=look.color, ls=look.dash, lw=1.8)
    if x[-1] < 0.97 * last:
        axis.plot(x[-1], mean[-1], "o", color=look.color, ms=4)
    if len(seeds) > 1:
        low, high = np.nanmin(seeds, axis=0), np.nanmax(seeds, axis=0)
        axis.fill_between(x, low, high, color=look.color, alpha=0.15, lw=0)
    else:
        axis.plot(x, seeds[0], color=look.color, lw=0.6, alpha=0.4)
    name = f"{each.label} ({len(seeds)} runs)" if len(seeds) > 1 else each.label
    return EndLabel(name, float(mean[-1]), look)


def steps_text(value: float, _: object = None) -> str:
    """Steps of an axis, such as 500k or 1.5M."""
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def _figure(panels: int, letters: int = 0) -> tuple[Any, list[Any]]:
    """A figure with at least one panel, at most three in a row, and labels of so many letters."""
    columns = max(1, min(COLUMNS, panels))
    rows = max(1, ceil(panels / columns))
    return plot_style.figure(rows, columns, ((6.0 + 0.075 * letters) * columns, 3.6 * rows))
