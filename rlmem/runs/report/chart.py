"""Line charts and heat maps as HTML: a stretched SVG for the data, and text around it.

The SVG has no text, so that a chart is readable at any width. Its lines are 1000 units wide and
high; a small script adds the values under the pointer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from math import floor, isfinite, log10
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rlmem.runs import plot_style
from rlmem.runs.learning_curves import steps_text
from rlmem.runs.plot_style import Look

SIZE = 1000
# Height of a line of labels, in pixels.
LABEL = 17
LEVELS = 8


class Line(NamedTuple):
    """A line with its band; `x` ascends."""

    name: str
    x: Float[ndarray, " N"]
    y: Float[ndarray, " N"]
    low: Float[ndarray, " N"]
    high: Float[ndarray, " N"]
    look: Look


class Chart(NamedTuple):
    """Lines over a common axis; `levels` are named heights, `mark` is a vertical line."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    levels: Mapping[str, float] = {}
    mark: float | None = None
    height: int = 300
    note: str = ""
    small: bool = False


class _Range(NamedTuple):
    """A range of values on an axis."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """The place of a value on the axis, 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def ticks(self, count: int) -> list[float]:
        """About `count` round values."""
        rough = (self.high - self.low) / count
        size = 10.0 ** floor(log10(rough))
        step = next((size * factor for factor in (1, 2, 5) if size * factor >= rough), size * 10)
        first, last = np.ceil(self.low / step - 1e-9), np.floor(self.high / step + 1e-9)
        return [float(k * step) for k in range(int(first), int(last) + 1)]


def html(chart: Chart) -> str:
    """A chart as a `figure`; points that are not finite are left out, and lines without points."""
    known = map(_finite, chart.lines)
    chart = chart._replace(lines=[line for line in known if len(line.x)])
    if not chart.lines:
        return f"<p>{escape(chart.title)}: no finite values</p>"
    values = [array for line in chart.lines for array in (line.y, line.low, line.high)]
    heights = np.concatenate([*values, np.array(list(chart.levels.values()), float)])
    x = _range(np.concatenate([line.x for line in chart.lines]), 0.0)
    y = _range(heights, 0.04)
    ticks = 3 if chart.small else 5
    drawn = [
        *(f'<path class="grid" d="M0 {_y(y, tick)}H{SIZE}"/>' for tick in y.ticks(ticks)),
        *(f'<path class="level" d="M0 {_y(y, each)}H{SIZE}"/>' for each in chart.levels.values()),
    ]
    if chart.mark is not None and x.low < chart.mark < x.high:
        drawn.append(f'<path class="level" d="M{_x(x, chart.mark)} 0V{SIZE}"/>')
    drawn += [_band(line, x, y) for line in chart.lines]
    drawn += [_path(line, x, y) for line in chart.lines]
    kind = "chart small" if chart.small else "chart"
    parts = [
        f'<figure class="{kind}"><figcaption>{escape(chart.title)}</figcaption>',
        f'<p class="y-label">{escape(chart.y_label)}</p>',
        f'<div class="frame" style="--height:{chart.height}px;--ends:{_letters(chart)}ch">',
        _axis("y-axis", [(y.share(t), _text(t)) for t in y.ticks(ticks)], "bottom"),
        f'<div class="plot">{_svg(drawn, chart.title)}</div>',
        "" if chart.small else _ends(chart, y),
        _axis("x-axis", [(x.share(t), steps_text(t)) for t in x.ticks(ticks - 1)], "left"),
        "</div>",
        f'<p class="x-label">{escape(chart.x_label)}</p>',
        "" if chart.small else _legend(chart),
        f'<p class="note">{escape(chart.note)}</p>' if chart.note else "",
        _data(chart, x),
        "</figure>",
    ]
    return "\n".join(filter(None, parts))


def heat_map(
    title: str,
    values: Float[ndarray, "R C"],
    rows: Mapping[int, str],
    columns: Mapping[int, str],
    labels: tuple[str, str],
    top: float,
) -> str:
    """A heat map as a `figure`: eight shades up to `top`, one path each; NaN is left empty.

    `rows` and `columns` are the texts of some of them, `labels` the names of columns and rows.
    """
    high, wide = values.shape
    shade = np.ceil(np.nan_to_num(values) / top * LEVELS - 1e-9).clip(0, LEVELS).astype(int)
    paths = []
    for level in range(1, LEVELS + 1):
        cells = [_cell(r, c, high, wide) for r, c in np.argwhere(shade == level)]
        if cells:
            opacity = f"{level / LEVELS:.3g}"
            paths.append(f'<path class="heat" fill-opacity="{opacity}" d="{"".join(cells)}"/>')
    across = [((c + 0.5) / wide, text) for c, text in columns.items()]
    down = [(1 - (r + 0.5) / high, text) for r, text in rows.items()]
    return "\n".join(
        [
            f'<figure class="chart"><figcaption>{escape(title)}</figcaption>',
            f'<p class="y-label">{escape(labels[1])}</p>',
            '<div class="frame" style="--height:300px;--ends:0ch">',
            _axis("y-axis", down, "bottom"),
            f'<div class="plot">{_svg(paths, title)}</div>',
            _axis("x-axis", across, "left"),
            "</div>",
            f'<p class="x-label">{escape(labels[0])}</p>',
            f'<p class="note">Darkest: {top:.2f} and more, in {LEVELS} shades; empty: 0.</p>',
            "</figure>",
        ]
    )


def _finite(line: Line) -> Line:
    """The points of a line whose numbers are all finite."""
    values = np.stack([line.x, line.y, line.low, line.high])
    x, y, low, high = values[:, np.isfinite(values).all(axis=0)]
    return line._replace(x=x, y=y, low=low, high=high)


def look_class(look: Look) -> str:
    """The classes of a look in the style sheet."""
    dash = plot_style.DASHES.index(look.dash)
    color = plot_style.COLORS.index(look.color) if look.color in plot_style.COLORS else 6
    return f"c{color} d{dash}"


def _range(values: Float[ndarray, " N"], margin: float) -> _Range:
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    if margin == 0 and 0 < low < 0.05 * high:
        low = 0.0
    if high <= low:
        low, high = low - 0.5, high + 0.5
    return _Range(low - margin * (high - low), high + margin * (high - low))


def _x(x: _Range, value: float) -> str:
    return f"{SIZE * x.share(value):.5g}"


def _y(y: _Range, value: float) -> str:
    return f"{SIZE * (1 - y.share(value)):.5g}"


def _points(x: Float[ndarray, " N"], y: Float[ndarray, " N"], over: _Range, up: _Range) -> str:
    places = zip(SIZE * (x - over.low) / (over.high - over.low), y, strict=True)
    return "L".join(f"{a:.5g} {_y(up, b)}" for a, b in places)


def _path(line: Line, x: _Range, y: _Range) -> str:
    kind = look_class(line.look)
    if len(line.x) == 1:
        place = f"{_x(x, line.x[0])} {_y(y, line.y[0])}"
        return f'<path class="line dot {kind}" d="M{place}h0"/>'
    return f'<path class="line {kind}" d="M{_points(line.x, line.y, x, y)}"/>'


def _band(line: Line, x: _Range, y: _Range) -> str:
    there = _points(line.x, line.high, x, y)
    back = _points(line.x[::-1], line.low[::-1], x, y)
    return f'<path class="band {look_class(line.look)}" d="M{there}L{back}Z"/>'


def _svg(parts: Sequence[str], title: str) -> str:
    head = f'viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none" role="img"'
    return f'<svg {head} aria-label="{escape(title)}">{"".join(parts)}</svg>'


def _axis(kind: str, ticks: Sequence[tuple[float, str]], side: str) -> str:
    marks = [f'<span style="{side}:{100 * at:.4g}%">{escape(text)}</span>' for at, text in ticks]
    return f'<div class="{kind}">{"".join(marks)}</div>'


def _ends(chart: Chart, y: _Range) -> str:
    """Labels at the ends of the lines and levels, moved apart."""
    ends = [(line.name, float(line.y[-1]), look_class(line.look)) for line in chart.lines]
    ends += [(name, value, "guide") for name, value in chart.levels.items()]
    places = plot_style.spread(np.array([y.share(end[1]) for end in ends]), LABEL / chart.height)
    spans = [
        f'<span class="{kind}" style="bottom:{100 * at:.4g}%">{escape(name)}</span>'
        for (name, _, kind), at in zip(ends, places, strict=True)
    ]
    return f'<div class="ends" aria-hidden="true">{"".join(spans)}</div>'


def _legend(chart: Chart) -> str:
    items = [
        f'<li class="{look_class(line.look)}">{escape(line.name)}: {_text(float(line.y[-1]))}</li>'
        for line in chart.lines
    ]
    items += [
        f'<li class="guide">{escape(name)}: {_text(value)}</li>'
        for name, value in chart.levels.items()
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _letters(chart: Chart) -> int:
    """The width of the labels."""
    names = [*(line.name for line in chart.lines), *chart.levels]
    return 0 if chart.small else min(34, 3 + max(map(len, names)))


def _data(chart: Chart, x: _Range) -> str:
    """The values for the script, with four digits."""
    lines = [
        {
            "name": line.name,
            "look": look_class(line.look),
            **{key: _digits(getattr(line, key)) for key in ("x", "y", "low", "high")},
        }
        for line in chart.lines
    ]
    content = {"x": [x.low, x.high], "label": chart.x_label, "lines": lines}
    text = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json">{text}</script>'


def _digits(values: Float[ndarray, " N"]) -> list[float | int | None]:
    return [float(f"{value:.5g}") if isfinite(value) else None for value in values.tolist()]


def _text(value: float) -> str:
    return f"{round(value, 10) + 0:.3g}" if abs(value) < 1000 else steps_text(value)


def _cell(row: int, column: int, high: int, wide: int) -> str:
    width, height = SIZE / wide, SIZE / high
    return f"M{column * width:.5g} {row * height:.5g}h{width:.4g}v{height:.4g}h-{width:.4g}z"
