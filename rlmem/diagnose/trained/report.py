"""Tables and pictures of the analyses of a trained agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rlmem.diagnose.trained.saliency import ACTION, VALUE
from rlmem.runs import plot
from rlmem.runs.stats import Estimate
from rlmem.runs.table import Table, number

SHADES = " ░▒▓█"
# Size of a heat map in the terminal, and rows of a table of lags.
HEIGHT, WIDTH, LAGS = 16, 64, 8
# The least share of a gradient for which a lag is drawn.
SEEN = 0.05
# The first steps of an episode, whose few observations have large shares.
FIRST = 4
TICKS = 8


class Section(NamedTuple):
    """A title, and parts: tables, and lines of text that keep their spaces."""

    title: str
    parts: Sequence[Table | str]

    def text(self) -> str:
        """For a terminal."""
        shown = [part.text() if isinstance(part, Table) else part for part in self.parts]
        return "\n\n".join([self.title, *shown])

    def markdown(self) -> str:
        """A section of Markdown."""
        shown = [
            part.markdown() if isinstance(part, Table) else f"```\n{part}\n```"
            for part in self.parts
        ]
        return "\n\n".join([f"## {self.title}", *shown])


def saliency(result: Mapping[str, Any], folder: Path) -> Section:
    """Lags of the largest gradients, and heat maps; writes `saliency.png`."""
    parts: list[Table | str] = []
    panels = []
    for name in (ACTION, VALUE):
        if name not in result:
            continue
        found = result[name]
        heat = _by_step(found)
        parts += [_lags(name, found), *_last(name, found)]
        title = f"{name}: share of the gradient, decision step by lag"
        parts.append("\n".join([title, *shaded(heat)]))
        panels.append(
            plot.HeatMap(
                f"saliency of the {name}",
                heat,
                _ticks(len(heat)),
                _ticks(heat.shape[1]),
                _top(heat),
            )
        )
    plot.heat_maps(
        panels,
        folder / "saliency.png",
        x_label="lag of the observation",
        y_label="step of the decision",
        scale="share of the gradient",
    )
    title = "Saliency: gradients of decisions by past observations"
    return Section(title, [*parts, *_left(result)])


def _lags(name: str, found: Mapping[str, Any]) -> Table:
    """The lags with the largest shares."""
    order = np.argsort(-np.array(found["share"]))[:LAGS]
    keys = ("share", "largest", "past")
    rows = [
        [str(lag), *(number(found[key][lag]) for key in keys), f"{found['mean'][lag]:.1e}"]
        for lag in sorted(order)
    ]
    header = [f"lag ({name})", "mean share", "largest of all", "largest of past", "mean size"]
    return Table(header, rows)


def _last(name: str, found: Mapping[str, Any]) -> list[str]:
    """The observations that the last decision depends on most."""
    where = ", ".join(f"step {step} ({share:.0%})" for step, share in found["last"][:4])
    last = f"{name} at the last decision, step {found['decisions'][-1]}"
    return [f"{last}: largest gradient of the past by {where}"] if where else []


def _ticks(count: int) -> dict[int, str]:
    """Some numbers from 0 to `count` - 1, as labels."""
    return {i: str(i) for i in range(0, count, max(1, -(-count // TICKS)))}


def _by_step(found: Mapping[str, Any]) -> Float[ndarray, "S L"]:
    """The heat map with a row for every step, without the long lags that nothing depends on.

    Steps without a decision repeat the one before; lags before the episode are NaN.
    """
    heat, steps = np.array(found["heat"]), np.array(found["decisions"])
    rows = np.searchsorted(steps, np.arange(steps[-1] + 1), side="right") - 1
    spread = heat[np.maximum(rows, 0)]
    spread[np.arange(len(rows))[:, None] < np.arange(heat.shape[1])] = np.nan
    spread[rows < 0] = np.nan
    used = np.flatnonzero((heat >= SEEN).any(axis=0))
    return spread[:, : max(int(used[-1]) + 2, LAGS)]


def shaded(heat: Float[ndarray, "S L"]) -> list[str]:
    """A heat map in characters: one row for some decision steps, one column for some lags."""
    rows = np.array_split(np.arange(len(heat)), min(HEIGHT, len(heat)))
    columns = np.array_split(np.arange(heat.shape[1]), min(WIDTH, heat.shape[1]))
    # A cell has the largest of its values, so that one lag among many is seen.
    cells = np.array([[_largest(heat[np.ix_(r, c)]) for c in columns] for r in rows])
    top = _top(heat)
    width = len(str(len(heat) - 1))
    lines = []
    for r, row in zip(rows, cells, strict=True):
        level = np.ceil(row / top * (len(SHADES) - 1) - 0.5).clip(0, len(SHADES) - 1).astype(int)
        lines.append(f"{r[0]:>{width}} |" + "".join(SHADES[i] for i in level).rstrip())
    end = f"{heat.shape[1] - 1}"
    axis = "0" + end.rjust(len(columns) - 1) if len(columns) > len(end) else "0"
    return [*lines, " " * width + " +" + "-" * len(columns), " " * (width + 2) + axis + "  lag"]


def _top(heat: Float[ndarray, "S L"]) -> float:
    """The largest share, without the first steps: their few observations share everything."""
    return _largest(heat[FIRST:] if len(heat) > FIRST else heat) or 1.0


def _largest(values: ndarray) -> float:
    return 0.0 if np.isnan(values).all() else float(np.nanmax(values))


def retention(result: Mapping[str, Any], folder: Path) -> Section:
    """Returns by the number of remembered steps; writes `retention.png`."""
    whole, keeps = result["whole"], result["keep"]
    lines = {name: result[name] for name in ("reset", "swapped") if name in result}
    rows = [[str(k), *(str(lines[name][i]) for name in lines)] for i, k in enumerate(keeps)]
    rows.append([f"all (≤ {result['longest']})", *(str(whole) for _ in lines)])
    drawn = {f"{name} k steps before": list(line) for name, line in lines.items()}
    if keeps:
        plot.curves(
            drawn | {"whole memory": [whole] * len(keeps)},
            folder / "retention.png",
            title="return with the memory of the last k steps",
            x_label="k",
            y_label="return",
            x=keeps,
        )
    table = Table(["k", *lines], rows)
    title = "Retention: return with the memory of the last k steps"
    return Section(title, [table, *_left(result)])


def use(result: Mapping[str, Any], folder: Path) -> Section:
    """The returns of the agent with and without memory, and of others."""
    rows = [[name, str(value)] for name, value in result["returns"].items()]
    rows += [[f"{name} (known)", number(value)] for name, value in result["known"].items()]
    return Section("Use: return with and without memory", [Table(["player", "return"], rows)])


def interference(result: Mapping[str, Any], folder: Path) -> Section:
    """Returns by the number of strange steps; writes `interference.png`."""
    strange, found = result["strange"], result["returns"]
    rows = [[str(n), str(value)] for n, value in zip(strange, found, strict=True)]
    plot.curves(
        {"agent": found},
        folder / "interference.png",
        title="return after n strange steps",
        x_label="n",
        y_label="return",
        x=strange,
    )
    table = Table(["strange steps", "return"], rows)
    return Section("Interference: return after strange steps before the episode", [table])


def probes(result: Mapping[str, Any], folder: Path) -> Section:
    """Scores of the facts by the part of the episode; writes `probes.png`."""
    spans = [f"{a}-{b}" if a < b else str(a) for a, b in result["parts"]]
    rows: list[list[str]] = []
    skills: dict[str, list[list[float]]] = {"memory": [], "observation": []}
    for name, parts in result["facts"].items():
        for source in (*skills, "chance"):
            values = [None if each is None else _value(each[source]) for each in parts]
            kind = "accuracy" if any(each and each["classes"] for each in parts) else "R²"
            rows.append([name, kind, source, *(number(value, 2) for value in values)])
        for source, skill in skills.items():
            skill.append([np.nan if each is None else _skill(each, source) for each in parts])
    labels = dict(enumerate(result["facts"]))
    plot.heat_maps(
        [
            plot.HeatMap(
                f"probe of the {source}", np.array(skill), labels, dict(enumerate(spans)), 1.0
            )
            for source, skill in skills.items()
        ],
        folder / "probes.png",
        x_label="steps",
        y_label="fact",
        scale="0 chance, 1 right",
    )
    table = Table(["fact", "score", "probe of", *spans], rows)
    return Section("Probes: facts of the hidden state, by time", [table])


def _value(value: Estimate | float) -> float:
    return value.value if isinstance(value, Estimate) else value


def _skill(found: Mapping[str, Any], source: str) -> float:
    """A score between chance (0) and a right answer (1)."""
    chance = found["chance"]
    if chance >= 1:
        return float("nan")
    return max(0.0, (found[source].value - chance) / (1 - chance))


def _left(result: Mapping[str, Any]) -> list[str]:
    return [f"left out: {result['left_out']}"] if "left_out" in result else []
