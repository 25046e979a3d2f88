"""Results of a benchmark's cells: `results.csv`, and POPGym's table with published scores."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlmem.runs import records, stats
from rlmem.runs.compare import write_csv
from rlmem.runs.scores import PUBLISHED, REFERENCES
from rlmem.runs.table import Table, number

RESULTS = "results.csv"
# Scores are published with three digits.
ROUNDING = 0.0005


def result(path: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a finished run, with the command and the versions of its manifest."""
    run = records.read(path)
    assert run.evaluation is not None
    return {
        "cell": path.name,
        "env": run.options["env.name"],
        "difficulty": run.options.get("env.difficulty"),
        "core": run.options["core.name"],
        "algo": run.options["algo.name"],
        "seed": run.options["seed"],
        "steps": run.steps,
        "mmer": records.mmer(run.curve),
        "greedy_return": run.evaluation["return_mean"],
        "greedy_iqm": run.evaluation["return_iqm"],
        "greedy_std": run.evaluation.get("return_std"),
        "episodes": run.evaluation["episodes"],
        "memory_score": run.evaluation.get("memory_score"),
        "train_seconds": run.seconds,
        "steps_per_second": round(run.speed, 1),
        **_system(path, manifest),
        "command": manifest.get("command"),
    }


def _system(path: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The versions and the machine of a run: those of its last process.

    A run of an older version has those of its manifest.
    """
    last = records.systems(path)[-1]
    known = {"version": last.get("rlmem"), **last}
    keys = ("version", "commit", "torch", "numpy", "python", "cpu", "gpu", "threads")
    return {key: known.get(key) or manifest.get(key) for key in keys}


def collect(root: Path, names: Iterable[str], manifest: str) -> list[dict[str, Any]]:
    """The results of finished cells; writes them to `results.csv` in the benchmark's folder."""
    rows = []
    for name in names:
        file = root / name / manifest
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        rows.append(result(root / name, known))
    if rows:
        write_csv(root / RESULTS, rows)
    return rows


def contestant(core: str, algo: str = "ppo") -> str:
    """The name of a core in POPGym's table: ppo, which trains most cells, needs no word."""
    return core if algo == "ppo" else f"{core} ({algo})"


def popgym_row_of(options: Mapping[str, str]) -> tuple[str, str, str]:
    """Environment, difficulty and contestant of a cell with these options."""
    algo = options.get("algo", "ppo")
    return options["env"], options["env.difficulty"], contestant(options["core"], algo)


def popgym_table(
    rows: Sequence[Mapping[str, Any]], planned: Sequence[tuple[str, str, str]] = ()
) -> Table:
    """POPGym's tasks: MMER and greedy return over seeds, beside the published scores.

    `planned` are environment, difficulty and contestant of cells that the table should have:
    missing ones have a row without numbers. Bold cells are at or above the best published memory.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        key = row["env"], row["difficulty"], contestant(row["core"], row["algo"])
        groups[key].append(row)
    keys = {*groups, *planned}
    levels = {"easy": 0, "medium": 1, "hard": 2}
    order = list(REFERENCES)
    ordered = sorted(keys, key=lambda key: (order.index(key[0]), levels[key[1]], key[2]))
    header = (
        "task", "level", "core", "seeds", "MMER", "greedy return", "IQM", "memory score", "steps",
        "published GRU", "published best", "optimum",
    )  # fmt: skip
    return Table(header, [_popgym_row(key, groups.get(key, [])) for key in ordered])


def _popgym_row(key: tuple[str, str, str], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    env, level, core = key
    published = PUBLISHED.get(env, {}).get(level)
    known = ["-", "-"]
    if published is not None:
        known = [number(published.gru), f"{number(published.best)} {published.memory}"]
    task = env.removeprefix("popgym-")
    tail = [*known, number(REFERENCES[env][level].optimal)]
    if not runs:
        return [task, level, core, "missing", *["-"] * 5, *tail]
    mmer, greedy = ([run[name] for run in runs] for name in ("mmer", "greedy_return"))
    best = published.best if published is not None else None
    memory = [run["memory_score"] for run in runs]
    score = None if None in memory else float(np.mean(memory))
    return [
        task, level, core, str(len(runs)), _interval(mmer, best), _interval(greedy, best),
        number(float(np.mean([run["greedy_iqm"] for run in runs]))), number(score, 2),
        f"{max(run['steps'] for run in runs):,}", *tail,
    ]  # fmt: skip


def _interval(values: Sequence[float | None], best: float | None) -> str:
    """Mean and half width of the t-interval over seeds; bold if at or above `best`."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    found = stats.over_runs(np.array(known, float))
    half = f" ± {number((found.high - found.low) / 2)}" if len(known) > 1 else ""
    above = best is not None and found.value >= best - ROUNDING
    text = number(found.value) + half
    return f"**{text}**" if above else text
