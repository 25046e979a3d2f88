"""The sections of a report as HTML: runs, curves, evaluations, configuration, versions."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlmem import __version__
from rlmem.runs import compare, records, stats
from rlmem.runs.compare import Group
from rlmem.runs.records import Record
from rlmem.runs.report import chart, lines
from rlmem.runs.table import Table, number

# Options that say only where a run is.
PLACES = ("run_dir", "resume")
# Steps of resumes in a row of the system.
SHOWN = 5


class Section(NamedTuple):
    """A title, with its name in links, and HTML."""

    name: str
    title: str
    parts: Sequence[str]

    def html(self) -> str:
        """The section."""
        return "\n".join(
            [f'<section id="{self.name}"><h2>{escape(self.title)}</h2>', *self.parts, "</section>"]
        )


def table(found: Table, kind: str = "") -> str:
    """A table in a box that scrolls."""
    right = ["n" if each else "" for each in found.numeric()]
    head = _row("th", found.header, right)
    body = "\n".join(_row("td", row, right) for row in found.rows)
    return (
        f'<div class="scroll {kind}"><table><thead>{head}</thead><tbody>\n{body}\n'
        "</tbody></table></div>"
    )


def _row(tag: str, cells: Sequence[str], kinds: Sequence[str]) -> str:
    parts = [
        f"<{tag}{f' class={kind}' if kind else ''}>{escape(cell)}</{tag}>"
        for cell, kind in zip(cells, kinds, strict=True)
    ]
    return f"<tr>{''.join(parts)}</tr>"


def text(sentence: str) -> str:
    """A paragraph."""
    return f"<p>{escape(sentence)}</p>"


def names(runs: Sequence[Record]) -> list[str]:
    """The names of runs: their folders, without the part that all have in common."""
    paths = [Path(os.path.abspath(run.path)) for run in runs]
    if len(paths) == 1:
        return [paths[0].name]
    common = os.path.commonpath(paths)
    return [path.relative_to(common).as_posix() for path in paths]


def runs(found: Mapping[str, Record]) -> Section:
    """A row per run."""
    rows = [
        [
            name, run.env, str(run.options["core.name"]), str(run.options["algo.name"]),
            str(run.options.get("seed", "-")), f"{run.steps:,}",
            number(float(run.curve.returns[-1])) if len(run.curve.returns) else "-",
            number(float(run.evaluation["return_mean"])) if run.evaluation else "-",
            _time(run.seconds), number(run.speed, 0),
        ]
        for name, run in found.items()
    ]  # fmt: skip
    header = (
        "run", "environment", "core", "algorithm", "seed", "steps", "last training return",
        "evaluation", "time", "steps/s",
    )  # fmt: skip
    return Section("runs", f"Runs ({len(rows)})", [table(Table(header, rows))])


def curves(groups: Sequence[Group], found: Mapping[str, Record]) -> Section:
    """The learning curves of groups, then of each run."""
    about = (
        f"Each curve has at most {lines.BUCKETS} buckets of equal numbers of steps. Line: the mean "
        f"return of the episodes of a bucket, over all runs, smoothed over {lines.SMOOTHED:.0%} "
        "of the buckets. Band: the lowest and the highest row of any run in the bucket, not "
        "smoothed, so no row is hidden. Buckets without a row are interpolated."
    )
    charts = [chart.html(each) for each in lines.learning(groups)]
    known = {name: run for name, run in found.items() if len(run.curve.steps)}
    single = [
        f'<div data-run="{escape(name)}" data-last="{run.curve.returns[-1]:.6g}">'
        f"{chart.html(lines.single(name, run))}</div>"
        for name, run in known.items()
    ]
    empty = [name for name in found if name not in known]
    parts = [text(about), *charts]
    if single:
        parts += ["<h3>Each run</h3>", f'<div class="grid-of">{"".join(single)}</div>']
    if empty:
        parts.append(text(f"No episode has ended yet in: {', '.join(empty)}."))
    return Section("curves", "Learning curves", parts)


def evaluation(groups: Sequence[Group], found: Mapping[str, Record]) -> Section:
    """The table of `rlmem compare`, intervals, and evaluations during training."""
    parts = [table(compare.table(groups)), text(compare.NOTES.replace("`", ""))]
    if bars := _intervals(groups):
        parts += ["<h3>Intervals</h3>", bars]
    logged = {name: records.read_evaluations(run.path) for name, run in found.items()}
    if known := {name: each for name, each in logged.items() if each is not None}:
        parts += [
            "<h3>During training</h3>",
            text("Mean greedy return on unseen seeds, with normal 95 % intervals over episodes."),
            *(chart.html(each) for each in lines.evaluations(known)),
        ]
    return Section("evaluation", "Evaluation", parts)


def _intervals(groups: Sequence[Group]) -> str:
    """Means with 95 % intervals: over runs, or over the episodes of a single run."""
    rows: dict[str, list[tuple[str, stats.Estimate]]] = {}
    for each in groups:
        if (estimate := _interval(each)) is not None:
            over = "runs" if len(each.scores) > 1 else "episodes"
            rows.setdefault(each.env, []).append((f"{each.label} (over {over})", estimate))
    parts = []
    for env, members in rows.items():
        low = min(estimate.low for _, estimate in members)
        width = max(estimate.high for _, estimate in members) - low or 1.0
        parts.append(f'<div class="bars"><h4>{escape(env)}</h4>')
        for name, estimate in members:
            left, right, middle = (
                100 * (value - low) / width for value in (estimate.low, estimate.high, estimate[0])
            )
            parts.append(
                f'<div class="bar"><span>{escape(name)}</span><div class="track">'
                f'<i style="left:{left:.4g}%;width:{right - left:.4g}%"></i>'
                f'<b style="left:{middle:.4g}%"></b></div><span>{estimate}</span></div>'
            )
        parts.append("</div>")
    return "\n".join(parts)


def _interval(each: Group) -> stats.Estimate | None:
    if not each.evaluated or not len(each.scores):
        return None
    if len(each.scores) > 1:
        return each.estimate()
    assert each.runs[0].evaluation is not None
    returns = np.asarray(each.runs[0].evaluation.get("returns", []), float)
    return stats.estimate(stats.mean, returns[None]) if len(returns) else None


def configuration(found: Mapping[str, Record]) -> Section:
    """The options that differ between runs, and those that are equal."""
    keys = dict.fromkeys(key for run in found.values() for key in run.options if key not in PLACES)
    values = {key: [_option(run, key) for run in found.values()] for key in keys}
    differing = {key: each for key, each in values.items() if len(set(each)) > 1}
    parts = []
    if differing:
        rows = [[key, *each] for key, each in differing.items()]
        parts.append(table(Table(["option", *found], rows), "sticky"))
    else:
        parts.append(text("All options are equal." if len(found) > 1 else "There is one run."))
    same = [[key, each[0]] for key, each in values.items() if key not in differing]
    inside = table(Table(("option", "value"), same))
    title = f"Equal options ({len(same)})"
    parts.append(f"<details><summary>{title}</summary>{inside}</details>")
    return Section("configuration", "Differences between configurations", parts)


def _option(run: Record, key: str) -> str:
    return str(run.options[key]) if key in run.options else ""


SYSTEM = {
    "rlmem": "rlmem", "commit": "commit", "torch": "torch", "numpy": "NumPy", "python": "Python",
    "cpu": "CPU", "cores": "cores", "gpu": "GPU", "threads": "threads", "ranks": "ranks",
}  # fmt: skip


def system(found: Mapping[str, Record]) -> Section:
    """The versions and machines of the runs, and of this page.

    A run that was resumed has a row for each system that has trained it.
    """
    rows = []
    for name, run in found.items():
        steps: dict[tuple[str, ...], list[str]] = {}
        for each in records.systems(run.path):
            cells = tuple(each.get(key) or "-" for key in SYSTEM)
            steps.setdefault(cells, []).append(each.get("step", "-"))
        device = str(run.options.get("device", "-"))
        rows += [[name, _steps(begun), device, *cells] for cells, begun in steps.items()]
    version = ".".join(map(str, sys.version_info[:3]))
    about = (
        f"This page is made by rlmem {__version__} with Python {version}, from the files of the "
        "runs. A run has a row for each system that has trained it, with the steps at which it "
        "began or went on there."
    )
    header = ("run", "from step", "device", *SYSTEM.values())
    return Section("system", "System", [table(Table(header, rows)), text(about)])


def _steps(begun: Sequence[str]) -> str:
    """The first steps of a system's processes."""
    return ", ".join(begun[:SHOWN]) + (", ..." if len(begun) > SHOWN else "")


def _time(seconds: float) -> str:
    minutes = int(seconds) // 60
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{seconds / 60:.1f} min"


def plain(value: Any) -> list[float]:
    """An estimate in a JSON file, as value, low and high."""
    if isinstance(value, Mapping):
        return [float(value[key]) for key in ("value", "low", "high")]
    return [float(each) for each in value]
