"""Plots: looks of lines, places of labels, and panels with few lines."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from rlmem.runs import plot, plot_style
from rlmem.runs.plot_style import EndLabel, Look
from rlmem.runs.stats import Estimate


def test_labels_keep_their_order_and_their_distance() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 8):
        wanted = rng.random(count)
        places = plot_style.spread(wanted, 0.1)
        assert (np.argsort(places) == np.argsort(wanted)).all()
        assert (np.diff(np.sort(places)) >= 0.1 - 1e-12).all()
    # Labels with room stay; those that touch move apart, around their mean.
    np.testing.assert_allclose(
        plot_style.spread(np.array([0.9, 0.1, 0.5, 0.5]), 0.1), [0.9, 0.1, 0.45, 0.55]
    )
    np.testing.assert_allclose(
        plot_style.spread(np.array([0.52, 0.5, 0.6]), 0.1), [0.54, 0.44, 0.64]
    )


def test_a_name_has_one_look_and_no_other_in_its_panel_has_it() -> None:
    many = [str(i) for i in range(10)]
    found = plot_style.looks([many, ["a", "0"], ["b", "c"]])
    assert len({found[name] for name in many}) == 10
    assert found["a"] != found["0"]
    # Another panel begins with the first colour again.
    assert found["b"] == found["0"] == Look(plot_style.COLORS[0])
    assert found["7"] == Look(plot_style.COLORS[0], plot_style.DASHES[1])


def test_red_blind_readers_tell_the_colours_apart() -> None:
    # The colours that red-blind readers see (Viénot et al. 1999).
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in plot_style.COLORS])
    linear = rgb**2.2
    seen = linear @ np.array([[0.112, 0.885, 0.004], [0.112, 0.885, 0.004], [0.004, -0.004, 1.0]]).T
    seen = np.clip(seen, 0, 1) ** (1 / 2.2)
    for i in range(len(seen)):
        for j in range(i):
            assert np.abs(seen[i] - seen[j]).max() > 0.08, (i, j)


def test_smoothing_averages_and_keeps_gaps() -> None:
    values = np.array([0.0, 3.0, 6.0, np.nan])
    np.testing.assert_allclose(plot_style.smooth(values, 3), [1.5, 3.0, 4.5, np.nan])
    np.testing.assert_allclose(plot_style.smooth(values, 1), values)


def test_a_panel_has_at_most_five_lines_and_the_agent() -> None:
    assert plot.panels(["agent"]) == [["agent"]]
    names = ["agent", *"abcdefghi"]
    parts = plot.panels(names)
    assert all(len(part) <= 5 and part[0] == "agent" for part in parts)
    assert sorted(name for part in parts for name in part[1:]) == names[1:]


def test_labels_are_beside_the_data_and_do_not_overlap() -> None:
    figure, (axis,) = plot_style.figure(1, 1, (6, 3))
    names = [f"a long name {i}" for i in range(8)]
    chosen = plot_style.looks([names])
    for name in names:
        axis.plot([0, 1], [0, 1], color=chosen[name].color)
    plot_style.label_ends(axis, [EndLabel(n, 1.0, chosen[n]) for n in names], "and 2 more")
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axis.texts]
    assert [text.get_text() for text in axis.texts] == [*names, "and 2 more"]
    frame = axis.get_window_extent()
    assert all(box.x0 > frame.x1 and box.x1 <= figure.bbox.x1 for box in boxes)
    ordered = sorted(boxes, key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 + 1 for below, above in pairwise(ordered))


@pytest.mark.parametrize(("count", "points", "wide"), [(1, 1, 1), (3, 10, 1), (8, 200, 2)])
def test_curves_are_drawn(count: int, points: int, wide: int, tmp_path: Path) -> None:
    line = [Estimate(x, x - 1, x + 1) for x in np.linspace(0, 1, points)]
    path = tmp_path / "a.png"
    plot.curves({str(i): line for i in range(count)}, path, title="t", x_label="x", y_label="y")
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    assert int.from_bytes(head[16:20], "big") == round((4.2 + 4.0 * wide) * plot_style.DPI)
