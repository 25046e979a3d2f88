"""Time from the command to a solved task: start of the process, training, greedy evaluation, end.

Runs `rlmem train experiment=quick-repeat seed=SEED` for each seed, one after the other, and prints
wall and CPU seconds of the whole process, and the greedy return over 100 episodes on other seeds.

    python scripts/bench_solved.py [--seeds 0 1 2 3 4] [--page NAME] [KEY=VALUE ...]

The options are those of `rlmem train`; without any, they are `experiment=quick-repeat`. Wall times
need an idle machine; CPU times grow by up to a half beside busy cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from pages import publish

SOLVED = 0.95
EXPERIMENT = ("experiment=quick-repeat",)


class Outcome(NamedTuple):
    """Seconds of one command, and the mean greedy return of its agent."""

    wall: float
    cpu: float
    greedy: float


def solve(options: list[str], seed: int) -> Outcome:
    """Train and evaluate in a process of its own; raises `CalledProcessError` if it fails."""
    with tempfile.TemporaryDirectory(prefix="rlmem-solved-") as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "rlmem", "train", *options]
        before, begun = os.times(), time.perf_counter()
        subprocess.run(
            [*command, f"seed={seed}", f"run_dir={run}"], check=True, stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        wall, after = time.perf_counter() - begun, os.times()
        cpu = sum(after[2:4]) - sum(before[2:4])  # of children: user and system
        return Outcome(wall, cpu, json.loads((run / "eval.json").read_text())["return_mean"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    parser.add_argument("options", nargs="*", help="options of rlmem train")
    args = parser.parse_args()
    options = args.options or list(EXPERIMENT)
    found = []
    for seed in args.seeds:
        found.append(solve(options, seed))
        print(f"seed {seed}: {found[-1]}", file=sys.stderr, flush=True)
    rows = [row(str(seed), each) for seed, each in zip(args.seeds, found, strict=True)]
    middle = Outcome(*(statistics.median(column) for column in zip(*found, strict=True)))
    command = "rlmem train " + " ".join(options)
    publish(f"`{command}`, the whole process", [*rows, row("median", middle)], args.page)


def row(name: str, found: Outcome) -> dict[str, str]:
    """The cells of one command."""
    return {
        "seed": name,
        "wall s": f"{found.wall:.1f}",
        "CPU s": f"{found.cpu:.1f}",
        "greedy return": f"{found.greedy:.3f}",
        "solved": "yes" if found.greedy >= SOLVED else "no",
    }


if __name__ == "__main__":
    main()
