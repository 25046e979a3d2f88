"""Tables and pictures of a suite's results: scores by question, accuracies, influence, costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from rlmem.diagnose.suite import COST, INFLUENCE, QUESTIONS
from rlmem.runs import plot_style
from rlmem.runs.stats import over_runs
from rlmem.runs.table import Table

Results = Sequence[Mapping[str, Any]]
MARK = "·"  # a question that was not asked


def scores(results: Results) -> dict[str, dict[str, list[float]]]:
    """The scores of all seeds, by core and question."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for each in results:
        if each["question"] != COST:
            found[each["core"]][each["question"]].append(each["score"])
    return found


def score_table(results: Results) -> Table:
    """A row per core: the mean score of each question, with the interval over seeds, and of all."""
    found = scores(results)
    asked = [name for name in QUESTIONS if any(name in row for row in found.values())]

    def cell(values: list[float]) -> str:
        if not values:
            return MARK
        half = over_runs(np.array(values)).high - mean(values) if len(values) > 1 else 0.0
        return f"{mean(values):.2f}" + (f" ± {half:.2f}" if len(values) > 1 else "")

    rows = []
    for core, row in found.items():
        means = [mean(row[name]) for name in asked if row[name]]
        rows.append([core, *(cell(row[name]) for name in asked), f"{mean(means):.2f}"])
    return Table(["core", *asked, "mean"], rows)


def accuracy_table(results: Results) -> Table:
    """A row per core, question and condition of the test: the mean accuracy in percent."""
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for each in results:
        for condition, value in each.get("accuracy", {}).items():
            found[each["question"], condition, each["core"]].append(value)
    names = list(dict.fromkeys(each["core"] for each in results))
    conditions = list(dict.fromkeys(key[:2] for key in found))
    rows = [
        [
            question,
            condition,
            f"{100 * QUESTIONS[question].chance:.0f}",
            *(
                f"{100 * mean(values):.0f}"
                if (values := found[question, condition, core])
                else MARK
                for core in names
            ),
        ]
        for question, condition in conditions
    ]
    return Table(["question", "condition", "chance", *names], rows)


def cost_table(results: Results) -> Table | None:
    """A row per core with its costs; None without any."""
    rows = [
        [
            each["core"],
            f"{each['cost']['width']}",
            f"{each['cost']['parameters']:,}",
            f"{each['cost']['state_bytes']:,}",
            f"{each['cost']['step_us']:.0f}",
            f"{each['cost']['scan_ns']:.0f}",
        ]
        for each in results
        if each["question"] == COST
    ]
    header = ["core", "width", "parameters", "state bytes", "step us", "scan ns/entry"]
    return Table(header, rows) if rows else None


def influence_table(results: Results) -> Table | None:
    """|dy[k]/dx[0]| by delay, before and after training on the delays; None without any."""
    found = [each for each in results if "influence_after" in each]
    seeds: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for each in found:
        for when in ("before", "after"):
            seeds[each["core"], when].append(each[f"influence_{when}"])
    rows = [
        [core, when, *(f"{value:.1e}" for value in np.mean(values, axis=0))]
        for (core, when), values in seeds.items()
    ]
    return Table(["core", "training", *map(str, INFLUENCE)], rows) if rows else None


def heat_map(results: Results, path: Path) -> Path:
    """Draw the mean scores, cores by questions, as a PNG; returns its path."""
    found = scores(results)
    asked = [name for name in QUESTIONS if any(name in row for row in found.values())]
    values = np.array(
        [[mean(row[name]) if row[name] else np.nan for name in asked] for row in found.values()]
    )
    size = (2 + 0.5 * len(asked), 1.6 + 0.32 * len(found))
    figure, (axis,) = plot_style.figure(1, 1, size)
    image = axis.imshow(values, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    plot_style.describe(axis, "", "", "")
    axis.set_xticks(range(len(asked)), asked, rotation=50, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(found)), list(found))
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            color = "white" if value < 0.55 else "black"
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=color, size=8)
    plot_style.color_bar(axis, image, "score: 0 chance, 1 optimum")
    return plot_style.save(figure, path)
