"""Passive T-maze of length 1,500, learned by PPO in stages of growing corridors.

    python scripts/long_t_maze.py [--cores deltanet aaren] [--seeds 0] [--factor 2]
                                  [--length 1500] [--page t-maze-long] [key=value ...]

Trains every core with the tuned settings on a corridor of ten cells, and resumes the run with
corridors `--factor` times as long, up to the last one. Prints the greedy return on unseen seeds
after each stage: 1 means that both goals are reached, 0.5 is the optimum without memory.

Rewards are immediate (a lost step costs at once, and so does the wrong turn), so only the memory
has to span the corridor: there is no discounted future. In a corridor of 1,500 cells from the
start, agents learned to walk within a million steps, but never to turn: one wrong step loses the
goal, so they reached the junction only after they had unlearned all other moves. In a short
corridor an agent learns to turn before that. A row is a whole episode.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pages import publish

FIRST = 10
# Iterations of 32 environments in the first stage, and in the others.
ITERATIONS = (32, 6)
NUM_ENVS = 32
# Steps of a row at least: several episodes of a short corridor.
ROW = 110


def stages(length: int, factor: int) -> list[int]:
    """The lengths of the corridors."""
    found = [FIRST]
    while found[-1] * factor < length:
        found.append(found[-1] * factor)
    return [*found, length]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cores", nargs="+", default=["deltanet", "aaren"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--length", type=int, default=1500, help="cells of the last corridor")
    parser.add_argument("--factor", type=int, default=2, help="growth of the corridor in a stage")
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    args, overrides = parser.parse_known_args()
    table = []
    for core in args.cores:
        for seed in args.seeds:
            for row in train(core, seed, stages(args.length, args.factor), overrides):
                table.append({"core": core, "seed": str(seed), "factor": str(args.factor)} | row)
                print(*table[-1].values(), sep=" | ", flush=True)
    first = " ".join(["rlmem train env=tmaze-passive core=CORE seed=SEED", *overrides])
    publish(
        f"`{first}`, then `rlmem train resume=RUN env.corridor_length=LENGTH` with a row of whole "
        "episodes (`algo.num_steps`); steps and times are those of all stages so far",
        table,
        args.page,
    )


def train(
    core: str, seed: int, lengths: list[int], overrides: list[str]
) -> Iterator[dict[str, str]]:
    """All stages of one run: a row of the table for each."""
    steps, wall, cpu = 0, 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        begin = ["env=tmaze-passive", f"core={core}", f"seed={seed}", *overrides]
        begin += [f"run_dir={run}", "log.tensorboard=false"]
        for number, length in enumerate(lengths):
            row = (length + 1) * max(1, ROW // (length + 1))
            steps += NUM_ENVS * row * ITERATIONS[number > 0]
            sizes = [f"env.corridor_length={length}", f"algo.num_steps={row}"]
            sizes += [f"total_steps={steps}", "log.progress=false", "checkpoint_every=null"]
            seconds, used = rlmem(*([f"resume={run}"] if number else begin), *sizes)
            wall, cpu = wall + seconds, cpu + used
            result = json.loads((run / "eval.json").read_text())
            with (run / "metrics.csv").open(newline="") as file:
                last = list(csv.DictReader(file))[-1]
            yield {
                "corridor": f"{length:,}",
                "steps": f"{result['step']:,}",
                "return in training": f"{float(last['episode_return']):.3f}",
                "greedy return": f"{result['return_mean']:.3f}",
                "worst of 100": f"{result['return_min']:.3f}",
                "wall time": f"{wall:.0f} s",
                "CPU time": f"{cpu:.0f} s",
            }


def rlmem(*arguments: str) -> tuple[float, float]:
    """Run `rlmem train`; returns wall and CPU seconds. Raises `CalledProcessError` if it fails."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "rlmem", "train", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
    return time.perf_counter() - begun, used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
