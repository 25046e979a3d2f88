"""Sections of a report from other commands: `rlmem eval split=...` and `rlmem diagnose run=...`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from rlmem.errors import reading
from rlmem.runs import sealed
from rlmem.runs.records import Record
from rlmem.runs.report import chart, lines
from rlmem.runs.report.chart import Chart
from rlmem.runs.report.sections import Section, plain, table, text
from rlmem.runs.stats import Estimate
from rlmem.runs.table import Table

ADAPTATION = "eval-*.json"
DIAGNOSIS = "diagnose/diagnose.json"
# Rows and columns of a heat map, and the least share that makes a lag worth a column.
ROWS, COLUMNS, SEEN, FEWEST = 48, 96, 0.05, 8
TICKS = 8


def adaptation(found: Mapping[str, Record], folders: Sequence[Path]) -> Section | None:
    """The reports of `rlmem eval split=...` in the runs and in the given folders."""
    places = {run.path: name for name, run in found.items()}
    places |= {folder: str(folder) for folder in folders if folder not in places}
    files = {
        path.absolute(): name
        for folder, name in reversed(places.items())
        for path in sorted(folder.glob(ADAPTATION))
    }
    if not files:
        return None
    parts = [
        text(
            "Mean return of each episode of a trial, on tasks of one split; bands are 95 % "
            "intervals over trials. Dotted: the number of episodes in training."
        )
    ]
    for path, name in sorted(files.items()):
        with reading(path):
            parts += _adaptation(name, sealed.read(path))
    return Section("adaptation", "Adaptation", parts)


def _adaptation(name: str, report: Mapping[str, Any]) -> list[str]:
    scores = report["scores"]
    title = f"{name}: {report['env']}, {report['split']}"
    curves = {each: [plain(p) for p in entry["curve"]] for each, entry in scores.items()}
    charts = [
        Chart(title, "episode of the trial", "return", part, mark=float(report["trained_episodes"]))
        for part in lines.estimates(curves)
    ]
    keys = ("mean", "first_episode", "last_episode", "last_minus_first")
    rows = [
        [each, *(str(Estimate(*plain(entry[key]))) for key in keys)]
        for each, entry in scores.items()
    ]
    header = ("player", "whole trial", "first episode", "last episode", "last - first")
    actions = "most likely" if report["deterministic"] else "sampled"
    note = f"{report['trials']} trials of {report['episodes']} episodes, {actions} actions."
    return [*map(chart.html, charts), table(Table(header, rows)), text(note)]


def memory(found: Mapping[str, Record]) -> Section | None:
    """Saliency and retention of the runs that `rlmem diagnose run=...` has analysed."""
    parts: list[str] = []
    for name, run in found.items():
        path = run.path / DIAGNOSIS
        if not path.exists():
            continue
        with reading(path):
            analyses = sealed.read(path)["analyses"]
            parts += _saliency(name, analyses.get("saliency", {}))
            parts += _retention(name, analyses.get("retention", {}))
    if not parts:
        return None
    about = (
        "Saliency: the share of each past observation in the gradient of a decision, by decision "
        "step and lag. Retention: the return with the memory of the last k steps alone."
    )
    return Section("memory", "Use of memory", [text(about), *parts])


def _saliency(name: str, result: Mapping[str, Any]) -> list[str]:
    parts = []
    for what in ("action", "value"):
        if what not in result:
            continue
        heat, steps = np.array(result[what]["heat"], float), result[what]["decisions"]
        heat[np.arange(heat.shape[1])[None] > np.array(steps)[:, None]] = np.nan
        used = np.flatnonzero((np.nan_to_num(heat) >= SEEN).any(axis=0))
        heat = heat[:, : max(int(used[-1]) + 2 if len(used) else 0, FEWEST)]
        small, rows, columns = pooled(heat)
        down = {i: str(steps[row]) for i, row in enumerate(rows)}
        across = {i: str(column) for i, column in enumerate(columns)}
        top = float(np.nanmax(small[1:] if len(small) > 1 else small))
        labels = ("lag of the observation", "decision step")
        title = f"{name}: saliency of the {what}"
        parts.append(
            chart.heat_map(title, small, _some(down), _some(across), labels, max(top, 1e-9))
        )
    return parts


def pooled(heat: np.ndarray) -> tuple[np.ndarray, list[int], list[int]]:
    """A smaller map: the largest value of each cell, and the first row and column of each."""
    rows = np.array_split(np.arange(heat.shape[0]), min(ROWS, heat.shape[0]))
    columns = np.array_split(np.arange(heat.shape[1]), min(COLUMNS, heat.shape[1]))
    low = np.where(np.isnan(heat), -1.0, heat)
    cells = np.array([[low[np.ix_(r, c)].max() for c in columns] for r in rows])
    small = np.where(cells < 0, np.nan, cells)
    return small, [int(r[0]) for r in rows], [int(c[0]) for c in columns]


def _some(labels: Mapping[int, str]) -> dict[int, str]:
    step = max(1, -(-len(labels) // TICKS))
    return {key: labels[key] for key in list(labels)[::step]}


def _retention(name: str, result: Mapping[str, Any]) -> list[str]:
    if not result.get("keep"):
        return []
    keep = result["keep"]
    scores = {
        f"{kind} k steps before": [plain(each) for each in result[kind]]
        for kind in ("reset", "swapped")
        if kind in result
    }
    if not scores:
        return []
    title = f"{name}: retention"
    whole = {"whole memory": plain(result["whole"])[0]}
    charts = [
        Chart(title, "k, steps of memory", "return", part, whole)
        for part in lines.estimates(scores, keep)
    ]
    return [*map(chart.html, charts), f"<p>{escape(f'k = {keep}')}</p>"]
