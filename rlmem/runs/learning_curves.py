"""Learning curves over runs, and performance profiles, as pictures for `rlmem compare`.

Line: the mean over runs, smoothed. Band: the lowest and highest run, not smoothed; a single run
has its own returns instead. Dashed: the optimum. Dotted: the best known score without memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rlmem.errors import need
from rlmem.files import replacing
from rlmem.runs import stats
from rlmem.runs.compare import Group
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


def smooth(values: Float[ndarray, " K"], window: int = WINDOW) -> Float[ndarray, " K"]:
    """The centred mean over `window` values; NaN is left out, and stays NaN."""
    known = np.isfinite(values)
    kernel = np.ones(min(window, len(values)))
    total = np.convolve(np.where(known, values, 0.0), kernel, "same")
    weight = np.convolve(known.astype(float), kernel, "same")
    return np.where(known, total / np.maximum(weight, 1), np.nan)


def draw(groups: Sequence[Group], path: Path) -> Path:
    """Draw the curves of all groups into a PNG, one panel per environment."""
    panels: dict[str, list[Group]] = defaultdict(list)
    for each in groups:
        if any(len(run.curve.steps) for run in each.runs):
            panels[each.env].append(each)
    colors = _colors([each.label for each in groups])
    figure, axes = _figure(len(panels), len(colors))
    # Without any episode there is one empty panel.
    for axis, (env, members) in zip(axes, panels.items(), strict=False):
        _panel(axis, env, members, colors)
    return _save(figure, path)


def draw_profiles(labels: Mapping[str, Sequence[ndarray]], path: Path) -> Path:
    """Draw performance profiles: the fraction of runs above each memory score."""
    thresholds = np.linspace(-0.1, 1.05, 116)
    shown = dict(list(labels.items())[:MOST_CURVES])
    colors = _colors(list(shown))
    figure, (axis,) = _figure(1, len(colors))
    for name, tasks in shown.items():
        value, low, high = stats.performance_profile(tasks, thresholds)
        axis.step(thresholds, value, where="post", color=colors[name], label=name)
        axis.fill_between(thresholds, low, high, step="post", color=colors[name], alpha=0.15, lw=0)
    axis.set(title="performance profile", xlabel="memory score", ylabel="fraction of runs above")
    axis.grid(alpha=0.3)
    _legend(axis)
    return _save(figure, path)


def _panel(axis: Any, env: str, members: Sequence[Group], colors: Mapping[str, Any]) -> None:
    last = max(run.curve.steps[-1] for each in members for run in each.runs if len(run.curve.steps))
    edges = np.linspace(0, last, BINS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    # Groups are sorted by score: the best ones are shown.
    for each in members[:MOST_CURVES]:
        seeds = np.stack([binned(r.curve, edges) for r in each.runs if len(r.curve.steps)])
        known = np.isfinite(seeds).any(axis=0)
        x, seeds = middle[known], seeds[:, known]
        color, count = colors[each.label], len(seeds)
        name = f"{each.label} ({count} runs)" if count > 1 else each.label
        axis.plot(x, smooth(np.nanmean(seeds, axis=0)), color=color, lw=1.8, label=name)
        if count > 1:
            low, high = np.nanmin(seeds, axis=0), np.nanmax(seeds, axis=0)
            axis.fill_between(x, low, high, color=color, alpha=0.13, lw=0)
        else:
            axis.plot(x, seeds[0], color=color, lw=0.6, alpha=0.4)
    hidden = len(members) - MOST_CURVES
    if hidden > 0:
        axis.plot([], [], " ", label=f"and {hidden} more")
    first = members[0].runs[0]
    if first.reference is not None and first.memoryless is not None:
        axis.axhline(first.reference.optimal, color="black", ls="--", lw=1, label="optimum")
        axis.axhline(first.memoryless, color="black", ls=":", lw=1, label="without memory")
    axis.set(title=env, xlabel="environment steps", ylabel="return in training")
    axis.xaxis.set_major_formatter(_steps)
    axis.grid(alpha=0.3)
    _legend(axis)


def _legend(axis: Any) -> None:
    axis.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, fontsize="small",
        borderaxespad=0,
    )  # fmt: skip


def _steps(value: float, _: int) -> str:
    """Steps of an axis, such as 500k or 1.5M."""
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def _colors(labels: Sequence[str]) -> dict[str, Any]:
    """A colour for each label, the same in all panels; ten colours, then the same ones again."""
    import matplotlib

    cycle = matplotlib.colormaps["tab10"]
    return {name: cycle(i % cycle.N) for i, name in enumerate(dict.fromkeys(labels))}


def _figure(panels: int, labels: int) -> tuple[Any, list[Any]]:
    """A figure with that many panels, and their axes; without pyplot, which may open a window."""
    need("matplotlib", "a plot", "train")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(1, min(COLUMNS, panels))
    rows = max(1, ceil(panels / columns))
    figure = Figure(figsize=(7.0 * columns, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(max(1, panels))]
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110)
    return path
