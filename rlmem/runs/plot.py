"""Plots of estimates and heat maps, in the style of `plot_style`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rlmem.runs import plot_style
from rlmem.runs.plot_style import EndLabel, Look
from rlmem.runs.stats import Estimate

# A panel with more lines is not readable; the first line is in every panel.
MOST_LINES = 5
# Lines with fewer points have a marker at each.
MARKED = 30


def curves(
    lines: Mapping[str, Sequence[Estimate]],
    path: Path,
    *,
    title: str,
    x_label: str,
    y_label: str,
    mark: int | None = None,
    x: Sequence[float | int] | None = None,
) -> None:
    """Draw lines with intervals over x = 1, 2, ... into a PNG; `mark` adds a dotted vertical.

    Given values of `x` are evenly spaced categories. More than five lines fill further panels,
    each with the first line. Long lines are smoothed over a twentieth of their points, without
    their bands.
    """
    groups = panels(list(lines))
    chosen = plot_style.looks([list(lines)])
    size = (4.2 + 4.0 * len(groups), 4.2)
    figure, axes = plot_style.figure(1, len(groups), size)
    longest = max(len(line) for line in lines.values())
    drawn = []
    window = longest // 20 if longest >= plot_style.MANY else 1
    for place, (axis, names) in enumerate(zip(axes, groups, strict=True)):
        ends = [_line(axis, name, lines[name], chosen[name], window) for name in names]
        if place:
            axis.sharey(axes[0])
        if mark is not None and mark < longest:
            axis.axvline(mark, color=plot_style.GUIDE, linestyle=":", linewidth=1)
        if x is not None:
            axis.set_xticks(range(1, len(x) + 1), [f"{value:g}" for value in x])
        elif longest < MARKED:
            axis.xaxis.get_major_locator().set_params(integer=True)
        smoothed = f", smoothed over {window}" if window > 1 else ""
        plot_style.describe(axis, "" if place else title, x_label + smoothed, y_label)
        plot_style.guides(axis)
        axis.margins(x=0.02)
        drawn.append((axis, ends))
    for axis, ends in drawn:
        plot_style.label_ends(axis, ends)
    plot_style.save(figure, path)


def panels(names: Sequence[str]) -> list[list[str]]:
    """The names of the lines of each panel: at most `MOST_LINES`, the first one in each."""
    first, others = list(names[:1]), list(names[1:])
    size = MOST_LINES - 1
    count = max(1, -(-len(others) // size))
    return [first + [str(name) for name in part] for part in np.array_split(others, count)]


def _line(axis: Any, name: str, line: Sequence[Estimate], look: Look, window: int) -> EndLabel:
    """Draw a line and its band; returns the label of its end."""
    places = np.arange(1, len(line) + 1)
    values = plot_style.smooth(np.array([point.value for point in line], float), window)
    marker = "o" if len(line) < MARKED else ""
    axis.plot(
        places, values, color=look.color, linestyle=look.dash, marker=marker, markersize=4, lw=1.8
    )
    low, high = ([getattr(point, bound) for point in line] for bound in ("low", "high"))
    axis.fill_between(places, low, high, color=look.color, alpha=0.16, linewidth=0)
    return EndLabel(name, float(values[-1]), look)


class HeatMap(NamedTuple):
    """Values by row and column, NaN for none, with the labels of some rows and columns.

    The colours end at `high`.
    """

    title: str
    values: Float[ndarray, "R C"]
    rows: Mapping[int, str]
    columns: Mapping[int, str]
    high: float


def heat_maps(
    panels: Sequence[HeatMap], path: Path, *, x_label: str, y_label: str, scale: str
) -> None:
    """Draw heat maps side by side into a PNG; `scale` is the label of the colours."""
    tallest = max(len(panel.values) for panel in panels)
    labels = max(len(label) for panel in panels for label in panel.rows.values())
    size = (1 + (5.2 + 0.07 * labels) * len(panels), min(2.0 + 0.3 * tallest, 4.8))
    figure, axes = plot_style.figure(1, len(panels), size)
    for axis, panel in zip(axes, panels, strict=True):
        axis.set_facecolor("0.85")
        image = axis.imshow(
            panel.values,
            vmin=0,
            vmax=panel.high,
            cmap="cividis",
            aspect="auto",
            interpolation="nearest",
        )
        plot_style.set_ticks(axis, panel.columns, panel.rows)
        plot_style.describe(axis, panel.title, x_label, y_label)
        plot_style.color_bar(axis, image, scale)
    plot_style.save(figure, path)
