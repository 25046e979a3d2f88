"""Short runs with loggers, and their numbers."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

SIZES: dict[str, Any] = {
    "core": "gru",
    "num_envs": 4,
    "hidden_size": 8,
    "total_steps": 512,
    "eval_episodes": 2,
    "algo": {"num_steps": 32, "num_minibatches": 2},
}
OFF = {"tensorboard": False, "progress": False}

# Values of a metric by step.
Curves = dict[str, dict[int, float]]


def columns(path: Path) -> Curves:
    """The columns of a CSV file of a run, without empty cells."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found: Curves = {}
    for row in rows:
        for key, cell in row.items():
            if key != "step" and cell:
                found.setdefault(key, {})[int(row["step"])] = float(cell)
    return found


def logged(run: Path) -> Curves:
    """All numbers that a run has logged: those of evaluations as `eval/NAME`."""
    evaluations = columns(run / "evaluations.csv")
    evaluations.pop("seconds")
    return columns(run / "metrics.csv") | {f"eval/{key}": v for key, v in evaluations.items()}
