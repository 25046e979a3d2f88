"""Train a grid of POPGym cells in the background, and keep one small result file per cell.

    python scripts/popgym_grid.py --jobs 1 [--only repeat] [--list]

A cell is a task, a difficulty, a memory core and a seed. A cell with a result file is not trained
again; an interrupted one resumes from its checkpoint. Each result has the command, the maximum over
iterations of the mean training return (MMER, the benchmark's metric), the greedy return on unseen
seeds with its memory score, and the wall time.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "popgym"
RUNS = ROOT / "runs" / "popgym"

# In RepeatPrevious and Autoencode an action changes nothing later: credit needs no horizon.
NO_HORIZON = ("algo.gamma=0", "algo.gae_lambda=0")
WIDE = ("num_envs=128",)


@dataclass(frozen=True)
class Cell:
    """One training run: its task, core, seed, budget and options."""

    env: str
    difficulty: str
    core: str
    seed: int
    total_steps: int
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.env}-{self.difficulty}-{self.core}-{self.seed}"

    @property
    def arguments(self) -> list[str]:
        return [
            f"env=popgym-{self.env}",
            f"env.difficulty={self.difficulty}",
            f"core={self.core}",
            f"seed={self.seed}",
            f"total_steps={self.total_steps}",
            *self.options,
        ]


def grid() -> list[Cell]:
    """All cells, the hard memory tasks first."""
    cells = []
    window = {
        "medium": ("core.memory=40", "algo.num_steps=104"),
        "hard": ("core.memory=72", "algo.num_steps=156"),
    }
    for difficulty in ("medium", "hard"):
        for seed in range(3):
            options = (*WIDE, *NO_HORIZON, *window[difficulty])
            cells.append(Cell("repeat", difficulty, "transformer_xl", seed, 1_500_000, options))
    for core in ("gru", "gated_deltanet", "transformer_xl"):
        more = ("core.memory=104", "algo.num_steps=104") if core == "transformer_xl" else ()
        options = (*WIDE, *NO_HORIZON, "algo.num_steps=104", *more)
        cells.append(Cell("autoencode", "easy", core, 0, 3_000_000, tuple(dict.fromkeys(options))))
        cells.append(Cell("count-recall", "easy", core, 0, 3_000_000, WIDE))
    for env in ("position-only-cartpole", "noisy-position-only-cartpole", "bandit"):
        cells += [Cell(env, "easy", core, 0, 3_000_000) for core in ("gru", "ffm", "s5", "none")]
    rest = ("repeat-first", "higher-lower", "minesweeper", "battleship", "concentration")
    physics = ("velocity-only-cartpole", "position-only-pendulum", "noisy-position-only-pendulum")
    for env in (*rest, *physics):
        cells += [Cell(env, "easy", core, 0, 2_000_000) for core in ("gru", "ffm", "s5", "none")]
    return cells


def train(cell: Cell) -> None:
    """Train a cell (or go on with it) and write its result."""
    result = RESULTS / f"{cell.name}.json"
    if result.exists():
        return
    run = RUNS / cell.name
    arguments = [*cell.arguments, f"run_dir={run}"]
    if any((run / "checkpoints").glob("step-*")):
        arguments = [f"resume={run}"]
    elif run.exists():
        shutil.rmtree(run)
    extra = ["threads=1", "device=cpu", "checkpoint_every=250000"]
    command = [sys.executable, "-m", "rlmem", "train", *arguments, *extra]
    begun = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=_nice)
    if done.returncode:
        print(f"{cell.name} failed: {done.stderr.strip().splitlines()[-1:]}", flush=True)
        return
    written = read(run, cell) | {"wall_seconds_of_last_start": round(time.monotonic() - begun)}
    RESULTS.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(written, indent=1) + "\n")
    print(
        f"{cell.name} mmer {written['mmer']:.3f} greedy {written['greedy_return']:.3f}", flush=True
    )


def read(run: Path, cell: Cell) -> dict[str, object]:
    """The result of a finished run."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    returns = [float(row["episode_return"]) for row in rows if row.get("episode_return")]
    evaluation = json.loads((run / "eval.json").read_text())
    return {
        "command": "rlmem train " + " ".join(cell.arguments),
        "mmer": max(returns),
        "greedy_return": evaluation["return_mean"],
        "greedy_iqm": evaluation["return_iqm"],
        "memory_score": evaluation.get("memory_score"),
        "episodes": evaluation["episodes"],
        "steps": int(rows[-1]["step"]),
        "train_seconds": float(rows[-1]["seconds"]),
    }


def _nice() -> None:
    os.nice(19)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="")
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args()
    cells = [cell for cell in grid() if given.only in cell.name]
    if given.list:
        for cell in cells:
            state = "done" if (RESULTS / f"{cell.name}.json").exists() else "missing"
            print(f"{state:8} {cell.name}: rlmem train {' '.join(cell.arguments)}")
        return
    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(train, cells))


if __name__ == "__main__":
    main()
