"""Plots with matplotlib, which is imported only to draw one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

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
) -> None:
    """Draw lines with intervals over x = 1, 2, ... into a PNG; `mark` adds a dotted vertical."""
    need("matplotlib", "a plot", "train")
    # Without pyplot, which has global state and may open a window.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    longest = max(len(line) for line in lines.values())
    for name, line in lines.items():
        x = range(1, len(line) + 1)
        (plotted,) = axes.plot(
            x, [point.value for point in line], label=name, marker="o" if longest < 30 else ""
        )
        axes.fill_between(
            x,
            [point.low for point in line],
            [point.high for point in line],
            color=plotted.get_color(),
            alpha=0.2,
            linewidth=0,
        )
    if mark is not None and mark < longest:
        axes.axvline(mark, color="black", linestyle=":", linewidth=1)
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)
