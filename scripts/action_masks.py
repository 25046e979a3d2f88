"""PPO with and without a mask of the legal actions, in two games of POPGym.

    python scripts/action_masks.py [--env popgym-battleship popgym-minesweeper] [--seeds 0 1 2]
                                   [--runs runs/action-masks] [--page action-masks] [key=value ...]

Runs `rlmem train` with `env.action_mask=false` and `true` for every environment and seed, and
prints a table: greedy returns on unseen seeds with the interval of `rlmem.runs.stats` (over
episodes, for these runs) and those of each seed, returns with sampled actions in the last tenth of
the training, and the return of random (legal) actions. Finished runs in the folder `--runs` are not
trained again.
"""

from __future__ import annotations

import argparse
import csv
import json
from itertools import product
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from pages import publish
from program import rlmem

from rlmem import envs
from rlmem.envs.meta.players import RandomPlayer
from rlmem.envs.seeding import eval_seeds
from rlmem.runs import stats
from rlmem.runs.playing import play_trials

SETTINGS = ["core=gru", "algo=ppo", "total_steps=1000000", "num_envs=64", "eval_episodes=200"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    games = ["popgym-battleship", "popgym-minesweeper"]
    parser.add_argument("--env", nargs="+", default=games)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/action-masks"))
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    args, overrides = parser.parse_known_args()
    options = [*SETTINGS, *overrides]
    rows = []
    for env, mask in product(args.env, ("false", "true")):
        runs = [train(args.runs, env, mask, seed, options) for seed in args.seeds]
        row = {"env": env, "mask": "yes" if mask == "true" else "no", **summary(runs)}
        rows.append(row | {"random actions": random_return(env, mask == "true")})
        print(*rows[-1].values(), sep=" | ", flush=True)
    command = " ".join(["rlmem train env=ENV env.action_mask=MASK seed=SEED", *options])
    publish(f"`{command}`, seeds {', '.join(map(str, args.seeds))}", rows, args.page)


def train(folder: Path, env: str, mask: str, seed: int, options: list[str]) -> Path:
    """The folder of a finished run, which is trained first if need be."""
    run = folder / f"{env}-{mask}-{seed}"
    if not (run / "eval.json").exists():
        here = [f"env={env}", f"env.action_mask={mask}", f"seed={seed}", f"run_dir={run}"]
        rlmem("train", *here, *options)
    return run


def summary(runs: list[Path]) -> dict[str, str]:
    """The cells of some runs that differ in their seeds."""
    results = [json.loads((run / "eval.json").read_text()) for run in runs]
    returns = np.array([result["returns"] for result in results])
    tails = [_last_tenth(run) for run in runs]
    return {
        "greedy return [95 %]": str(stats.estimate(stats.mean, returns)),
        "of each seed": str(stats.spread(stats.mean, returns)),
        "sampled return": f"{mean(tails):.3f}",
        "sampled, each seed": ", ".join(f"{tail:.3f}" for tail in tails),
        "steps": f"{results[0]['step']:,}",
    }


def random_return(env: str, mask: bool) -> str:
    """The mean return of random (legal) actions, with its interval over 2,000 episodes."""
    torch.manual_seed(0)
    seeds = eval_seeds(0, 2000)
    played = play_trials(
        RandomPlayer, lambda count: envs.make(env, num_envs=count, action_mask=mask), seeds, False
    )
    return str(stats.estimate(stats.mean, played.T))


def _last_tenth(run: Path) -> float:
    """The mean return of the episodes in the last tenth of the training."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("episode_return")]
    last = rows[-max(1, len(rows) // 10) :]
    return mean(float(row["episode_return"]) for row in last)


if __name__ == "__main__":
    main()
