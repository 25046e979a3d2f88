"""Comparison of runs: grouped by their differences, with intervals over seeds.

A group has the runs of one environment that differ in their seed only (or share the values of the
options `by`). Statistics over several environments follow Agarwal et al. 2021 (arXiv 2108.13264):
interquartile mean, optimality gap, probability of improvement and performance profiles.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rlmem.errors import UsageError, unknown
from rlmem.files import atomic_write, replacing
from rlmem.runs import stats
from rlmem.runs.records import Record
from rlmem.runs.stats import Estimate
from rlmem.runs.table import Table, number

# Options that say nothing about the agent, or are shown in columns of their own.
APART = re.compile(
    r"(seed|run_dir|resume|record|device|threads|legs|checkpoint_\w+|eval_\w+|log\..*"
    r"|env\.(name|difficulty|backend|vectorization|check_\w+))$"
)
# A task whose optimum is this near to its memoryless score has no memory score.
LEAST_GAIN = 0.01
# More groups make more pairs than a reader compares.
MOST_PAIRED = 8


class Group(NamedTuple):
    """Runs of one environment that are compared as one; `label` names their difference."""

    env: str
    label: str
    runs: list[Record]

    @property
    def evaluated(self) -> bool:
        """Whether all runs have been evaluated, or score by their training returns."""
        return all(run.evaluation is not None for run in self.runs)

    @property
    def scores(self) -> Float[ndarray, " R"]:
        """The score of each run that has one."""
        return np.array([run.score for run in self.runs if run.score is not None], float)

    @property
    def normalised(self) -> Float[ndarray, " R"]:
        """The memory score of each run: 0 without memory, 1 at the optimum; empty if unknown."""
        reference, memoryless = self.runs[0].reference, self.runs[0].memoryless
        if reference is None or memoryless is None:
            return np.array([])
        possible = reference.optimal - memoryless
        if possible <= LEAST_GAIN:
            return np.array([])
        return np.asarray((self.scores - memoryless) / possible)

    @property
    def iqm(self) -> float | None:
        """The interquartile mean over the greedy episodes of all runs."""
        episodes = [run.evaluation.get("returns", []) for run in self.runs if run.evaluation]
        returns = np.concatenate([np.asarray(each, float) for each in episodes] or [np.array([])])
        return float(stats.iqm(returns)) if len(returns) else None

    @property
    def speed(self) -> float:
        """The mean of trained steps per second."""
        return float(np.mean([run.speed for run in self.runs]))

    def estimate(self) -> Estimate | None:
        """The mean score with its interval over runs; None if no run has a score."""
        return stats.over_runs(self.scores) if len(self.scores) else None


def group(records: Iterable[Record], by: Sequence[str] = ()) -> list[Group]:
    """The groups of runs, sorted by environment, then by falling score.

    Without `by`, the differing options of the runs of each environment name a group. Raises
    `UsageError` for an option in `by` that no run has.
    """
    runs = list(records)
    keys = [_full_key(key, runs) for key in by] or _differences(runs)
    found: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for run in runs:
        found[run.env, label(run, keys)].append(run)
    groups = [Group(env, name, members) for (env, name), members in found.items()]
    return sorted(groups, key=_place)


def _place(each: Group) -> tuple[str, float]:
    return each.env, -float(each.scores.mean()) if len(each.scores) else np.inf


def label(run: Record, keys: Sequence[str]) -> str:
    """The values of `keys` as text; members of groups by their name alone."""
    parts = []
    for key in keys:
        if key not in run.options:
            continue
        value = run.options[key]
        short = key.rpartition(".")[2]
        parts.append(str(value) if short == "name" else f"{short}={_text(value)}")
    return " ".join(parts) or "-"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _full_key(key: str, runs: Sequence[Record]) -> str:
    known = dict.fromkeys(each for run in runs for each in run.options)
    full = f"{key}.name" if f"{key}.name" in known else key
    if full not in known:
        raise unknown("option in by", key, [each.removesuffix(".name") for each in known])
    return full


def _differences(runs: Sequence[Record]) -> list[str]:
    """The core, and the options that differ between runs of the same environment.

    Options of a core are compared between runs of this core, those of an algorithm likewise.
    """
    values: dict[tuple[str, str, Any], set[str]] = defaultdict(set)
    keys = dict.fromkeys(key for run in runs for key in run.options if not APART.match(key))
    for run in runs:
        for key in keys:
            owner, _, option = key.partition(".")
            member = run.options.get(f"{owner}.name") if option not in ("", "name") else None
            if key in run.options or member is None:
                values[key, run.env, member].add(str(run.options.get(key)))
    differing = {key for (key, _, _), found in values.items() if len(found) > 1}
    return ["core.name", *(key for key in keys if key in differing and key != "core.name")]


HEADER = (
    "environment", "agent", "runs", "return", "95 % interval", "IQM", "memory score", "steps",
    "steps/s",
)  # fmt: skip


def table(groups: Sequence[Group]) -> Table:
    """One row per group. A `*` marks training returns of runs without an evaluation."""
    rows = []
    for each in groups:
        found = each.estimate()
        mark = "" if each.evaluated or found is None else "*"
        interval = (
            f"[{number(found.low)}, {number(found.high)}]" if found and _several(each) else "-"
        )
        memory = float(each.normalised.mean()) if len(each.normalised) else None
        steps = max(run.steps for run in each.runs)
        row = (
            each.env, each.label, str(len(each.runs)),
            (number(found.value) if found else "-") + mark, interval,
            number(each.iqm), number(memory, 2), f"{steps:,}", number(each.speed, 0),
        )  # fmt: skip
        rows.append(row)
    return Table(HEADER, rows)


def _several(each: Group) -> bool:
    return len(each.scores) > 1


def aggregates(groups: Sequence[Group]) -> Table | None:
    """Memory scores over all tasks, for the labels that have the same ones (see `profiles`).

    The optimality gap is the mean shortfall from 1 (scores above 1 count as 1).
    """
    rows = []
    for name, scores in profiles(groups).items():
        pooled = stats.aggregate(stats.iqm, scores)
        gap = stats.aggregate(_optimality_gap, scores)
        rows.append((name, str(len(scores)), str(sum(map(len, scores))), str(pooled), str(gap)))
    header = ("agent", "tasks", "runs", "IQM of memory scores", "optimality gap")
    return Table(header, rows) if rows else None


def _optimality_gap(scores: ndarray, axis: int = -1) -> ndarray:
    return np.asarray(1 - np.minimum(scores, 1).mean(axis=axis))


def improvements(groups: Sequence[Group]) -> Table | None:
    """Probability of improvement for each pair of labels, over their common environments."""
    labels = _by_label(groups, normalised=False)
    if len(labels) > MOST_PAIRED:
        return None
    rows = []
    for x, y in combinations(labels, 2):
        common = [env for env in labels[x] if env in labels[y]]
        if not common:
            continue
        ours, theirs = ([labels[name][env] for env in common] for name in (x, y))
        found = stats.probability_of_improvement(ours, theirs)
        rows.append((x, y, str(len(common)), str(found)))
    return Table(("agent X", "agent Y", "environments", "P(X > Y)"), rows) if rows else None


def profiles(groups: Sequence[Group]) -> dict[str, list[Float[ndarray, " _"]]]:
    """The memory scores of the runs of each task, for each label: for statistics over tasks.

    Different tasks cannot be compared: these are the labels with the tasks of the label that has
    most of them. Empty if there are fewer than two tasks.
    """
    labels = _by_label(groups, normalised=True)
    tasks: set[str] = max(map(set, labels.values()), key=len, default=set())
    if len(tasks) < 2:
        return {}
    return {
        name: [found[env] for env in sorted(tasks)]
        for name, found in labels.items()
        if set(found) == tasks
    }


def _by_label(groups: Sequence[Group], normalised: bool) -> dict[str, dict[str, ndarray]]:
    found: dict[str, dict[str, ndarray]] = defaultdict(dict)
    for each in groups:
        scores = each.normalised if normalised else each.scores
        if len(scores):
            found[each.label][each.env] = scores
    return dict(found)


def report(groups: Sequence[Group]) -> str:
    """The tables as Markdown, with the meaning of their columns."""
    parts = ["# Comparison of runs", table(groups).markdown(), NOTES]
    if (pooled := aggregates(groups)) is not None:
        parts += ["## Over all tasks", pooled.markdown()]
    if (pairs := improvements(groups)) is not None:
        parts += ["## Probability of improvement", pairs.markdown()]
    return "\n\n".join(parts) + "\n"


NOTES = (
    "Return: mean over runs of the mean greedy return on unseen seeds (`*`: last training return, "
    "not evaluated), with Student's t-interval over runs (seeds). IQM: interquartile mean of all "
    "episodes. Memory score: 0 for the best known policy without memory, 1 for the optimum."
)


def write(groups: Sequence[Group], folder: Path, name: str = "compare") -> list[Path]:
    """Write the tables as Markdown, CSV (plain numbers) and LaTeX; returns the files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}") from error
    files = [folder / f"{name}{suffix}" for suffix in (".md", ".csv", ".tex")]
    atomic_write(files[0], report(groups))
    write_csv(files[1], [values(each) for each in groups])
    atomic_write(files[2], table(groups).latex() + "\n")
    return files


def values(each: Group) -> dict[str, Any]:
    """The numbers of a group, for a CSV file."""
    found = each.estimate()
    return {
        "environment": each.env,
        "agent": each.label,
        "runs": len(each.runs),
        "return": found.value if found else None,
        "low": found.low if found and _several(each) else None,
        "high": found.high if found and _several(each) else None,
        "iqm": each.iqm,
        "memory_score": float(each.normalised.mean()) if len(each.normalised) else None,
        "steps": max(run.steps for run in each.runs),
        "steps_per_second": round(each.speed, 1),
        "evaluated": each.evaluated,
    }


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the keys of the first one as header."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
