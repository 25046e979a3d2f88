"""One style for all plots: colours, axes, and labels at the ends of lines instead of a legend.

Colours are those of Okabe and Ito (2008, "Color Universal Design"), which colour-blind readers can
tell apart; without their yellow, which is pale on white. Matplotlib is imported only to draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rlmem.errors import need
from rlmem.files import replacing

# Blue, vermillion, green, purple, orange, sky blue; and grey.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
DASHES = ("-", "--", "-.", ":")
INK, GUIDE = "#333333", "#777777"
TEXT_SIZE = 9.0
DPI = 120
# Distance of the lines of labels, in heights of their letters, and of labels from the axes.
SPACING = 1.35
GAP = 0.035
# A line of so many points is smoothed over a twentieth of them.
MANY = 60


class Look(NamedTuple):
    """The colour and the dashes of a line."""

    color: str
    dash: str = "-"


class EndLabel(NamedTuple):
    """The text at the end of a line, which ends at the height `value`."""

    text: str
    value: float
    look: Look


def looks(panels: Iterable[Sequence[str]]) -> dict[str, Look]:
    """A look for each name in the panels, the same in all of them, and different inside of each.

    Seven colours, then the same ones with other dashes.
    """
    all_panels = list(panels)
    ordered = dict.fromkeys(name for panel in all_panels for name in panel)
    choices = [Look(color, dash) for dash in DASHES for color in COLORS]
    found: dict[str, Look] = {}
    for name in ordered:
        beside = [panel for panel in all_panels if name in panel]
        taken = {found[other] for panel in beside for other in panel if other in found}
        free = [look for look in choices if look not in taken]
        found[name] = free[0] if free else choices[len(found) % len(choices)]
    return found


def smooth(values: Float[ndarray, " K"], window: int) -> Float[ndarray, " K"]:
    """The centred mean over `window` values, fewer at both ends; NaN is left out, and stays NaN."""
    known = np.isfinite(values)
    kernel = np.ones(max(1, min(window, len(values))))
    total = np.convolve(np.where(known, values, 0.0), kernel, "same")
    weight = np.convolve(known.astype(float), kernel, "same")
    return np.where(known, total / np.maximum(weight, 1), np.nan)


def figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    """A figure of `size` inches and its axes, row by row; without pyplot, which opens windows."""
    need("matplotlib", "a plot", "train")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=size, facecolor="white")
    FigureCanvasAgg(made)
    made.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08, wspace=0.04, hspace=0.06)
    return made, [made.add_subplot(rows, columns, i + 1) for i in range(rows * columns)]


def describe(axis: Any, title: str, x_label: str, y_label: str) -> None:
    """Set the title and the names of the axes, and the look of all that is around the data."""
    axis.set_title(title, loc="left", fontsize=TEXT_SIZE + 2, color=INK)
    axis.set_xlabel(x_label, fontsize=TEXT_SIZE + 0.5, color=INK)
    axis.set_ylabel(y_label, fontsize=TEXT_SIZE + 0.5, color=INK)
    axis.tick_params(labelsize=TEXT_SIZE, colors=INK, color=GUIDE)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(GUIDE)


def guides(axis: Any) -> None:
    """Pale horizontal lines behind the data."""
    axis.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axis.set_axisbelow(True)


def label_ends(axis: Any, ends: Sequence[EndLabel], more: str = "") -> None:
    """Write labels to the right of the axes, at the heights of the ends of their lines.

    Labels that would overlap are moved apart, and a thin line leads to each. Call it last: it needs
    the limits and the size of the axes. `more` is a further line below the labels.
    """
    shown = [end for end in ends if np.isfinite(end.value)]
    if not shown:
        return
    axis.set_ylim(axis.get_ylim())
    axis.figure.draw_without_rendering()
    pixels = axis.get_window_extent().height
    step = SPACING * TEXT_SIZE * axis.figure.dpi / 72 / max(pixels, 1.0)
    low, high = axis.get_ylim()
    wanted = np.array([(end.value - low) / (high - low) for end in shown])
    places = spread(wanted, step)
    for end, height, place in zip(shown, wanted, places, strict=True):
        _label(axis, end, float(height), float(place))
    if more:
        _text(axis, more, float(min(places)) - step, GUIDE)


def legend_below(axis: Any, names: Mapping[str, Look]) -> None:
    """A legend below the axes, for lines that all end at the same height."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=look.color, ls=look.dash, lw=2) for look in names.values()]
    axis.figure.legend(
        handles, list(names), loc="outside lower center", ncols=min(4, len(names)), frameon=False,
        fontsize=TEXT_SIZE, labelcolor=INK,
    )  # fmt: skip


def spread(wanted: Float[ndarray, " N"], step: float) -> Float[ndarray, " N"]:
    """The heights nearest to `wanted`, in the same order, with at least `step` between them.

    Labels that touch form a block around the mean of their places; heights are shares of the axes.
    """
    order = np.argsort(wanted, kind="stable")
    blocks: list[tuple[float, int]] = []  # the mean of the wanted first heights, and the size
    for value in np.clip(wanted[order], 0, 1):
        first, size = float(value), 1
        while blocks and blocks[-1][0] + step * blocks[-1][1] > first:
            before, count = blocks.pop()
            first = (before * count + (first - step * count) * size) / (count + size)
            size += count
        blocks.append((first, size))
    places = np.concatenate([first + step * np.arange(size) for first, size in blocks])
    found = np.empty(len(wanted))
    found[order] = places
    return found


def _label(axis: Any, end: EndLabel, height: float, place: float) -> None:
    """The line to a label, and its text."""
    axis.plot(
        [1.004, 1.004 + GAP * 0.7],
        [height, place],
        transform=axis.transAxes,
        color=end.look.color,
        linestyle=end.look.dash,
        linewidth=1.2,
        clip_on=False,
        scalex=False,
        scaley=False,
    )
    _text(axis, end.text, place, _dark(end.look.color))


def _text(axis: Any, text: str, place: float, color: str) -> None:
    axis.text(
        1.004 + GAP, place, text, transform=axis.transAxes, color=color, fontsize=TEXT_SIZE,
        va="center", ha="left", clip_on=False,
    )  # fmt: skip


def _dark(color: str) -> str:
    """A darker form of a colour, for text."""
    parts = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{int(0.68 * part):02x}" for part in parts)


def color_bar(axis: Any, image: Any, label: str) -> None:
    """The scale of the colours of a heat map."""
    bar = axis.figure.colorbar(image, ax=axis, pad=0.02)
    bar.set_label(label, fontsize=TEXT_SIZE, color=INK)
    bar.ax.tick_params(labelsize=TEXT_SIZE, colors=INK, color=GUIDE)
    bar.outline.set_visible(False)


def set_ticks(axis: Any, x: Mapping[int, str], y: Mapping[int, str]) -> None:
    """Texts at some places of both axes."""
    axis.set_xticks(list(x), list(x.values()))
    axis.set_yticks(list(y), list(y.values()))


def save(made: Any, path: Path) -> Path:
    """Write a figure as a PNG; returns its path."""
    with replacing(path) as partial:
        made.savefig(partial, dpi=DPI, metadata={"Software": None})
    return path
