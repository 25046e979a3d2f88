"""Plots with matplotlib, which is imported only to draw one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from numpy import ndarray

from rlmem.errors import need
from rlmem.files import replacing
from rlmem.runs.stats import Estimate


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

    Given values of `x` are evenly spaced categories.
    """
    need("matplotlib", "a plot", "train")
    # Without pyplot, which has global state and may open a window.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    longest = max(len(line) for line in lines.values())
    for name, line in lines.items():
        places = range(1, len(line) + 1)
        (plotted,) = axes.plot(
            places, [point.value for point in line], label=name, marker="o" if longest < 30 else ""
        )
        axes.fill_between(
            places,
            [point.low for point in line],
            [point.high for point in line],
            color=plotted.get_color(),
            alpha=0.2,
            linewidth=0,
        )
    if mark is not None and mark < longest:
        axes.axvline(mark, color="black", linestyle=":", linewidth=1)
    if x is not None:
        axes.set_xticks(range(1, len(x) + 1), [f"{value:g}" for value in x])
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)


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
    need("matplotlib", "a plot", "train")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tallest = max(len(panel.values) for panel in panels)
    labels = max(len(label) for panel in panels for label in panel.rows.values())
    size = (1 + (5.2 + 0.07 * labels) * len(panels), min(2.0 + 0.3 * tallest, 4.8))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), number)
        axes.set_facecolor("0.85")
        image = axes.imshow(
            panel.values,
            vmin=0,
            vmax=panel.high,
            cmap="cividis",
            aspect="auto",
            interpolation="nearest",
        )
        axes.set_yticks(list(panel.rows), list(panel.rows.values()))
        axes.set_xticks(list(panel.columns), list(panel.columns.values()))
        axes.set(title=panel.title, xlabel=x_label, ylabel=y_label)
        figure.colorbar(image, label=scale)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)
