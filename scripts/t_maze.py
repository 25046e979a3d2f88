"""Passive T-maze: whether what was seen in the first step is still known a corridor later.

    python scripts/t_maze.py [--length 100] [--runs amago:lru r2d2:lru ...] [--seeds 0 1]
                             [--page t-maze] [key=value ...]

Runs `rlmem train env=tmaze-passive` for every algorithm with a core and every seed, and prints a
table of greedy returns on unseen seeds: 1 is both ways known, 0.5 the best there is without memory.
The corridor's penalty pays for every step, so that a short horizon is enough to walk it; what is
long here is what has to be remembered. A single false step, also one at random, loses an episode:
so there is little exploration, and none in some environments.
"""

from __future__ import annotations

import argparse
from itertools import product

from pages import publish
from reproduce import train

RUNS = ["amago:lru", "r2d2:lru"]
COMMON = ["num_envs=64", "hidden_size=64", "algo.learning_rate=1e-3", "algo.learning_starts=0"]
SETTINGS = {
    "amago": [
        "total_steps=600000",
        "algo.num_updates=20",
        "algo.gammas=[0.1,0.5,0.9]",
        "algo.popart_beta=0.01",
        "algo.tau=0.05",
        "algo.start_e=0.05",
        "algo.end_e=0.03",
        "algo.replay.capacity=50000",
    ],
    "r2d2": [
        "total_steps=600000",
        "algo.num_updates=20",
        "algo.gamma=0.9",
        "algo.n_step=1",
        "algo.epsilon=0.05",
        "algo.epsilon_alpha=1.0",
        "algo.target_tau=0.05",
        "algo.target_period=1",
        "algo.replay.burn_in=0",
        "algo.replay.stored_state=false",
        "algo.replay.capacity=50000",
    ],
}


def settings(algo: str, length: int) -> list[str]:
    """What one run is told: every row of a batch is an episode of `length` + 1 steps."""
    episode = length + 1
    rows = [f"env.corridor_length={length}", f"algo.num_steps={episode}"]
    rows += [f"algo.replay.length={episode}"]
    if algo == "r2d2":
        # All episodes are as long as each other, with one entry more for the last observation.
        rows += [f"algo.replay.stride={episode + 1}"]
    return [f"algo={algo}", *rows, *COMMON, *SETTINGS[algo]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--length", type=int, default=100, help="cells of the corridor")
    parser.add_argument("--runs", nargs="+", default=RUNS, metavar="ALGO:CORE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    args, overrides = parser.parse_known_args()
    table = []
    for run, seed in product(args.runs, args.seeds):
        algo, core = run.split(":")
        options = settings(algo, args.length) + overrides
        row = {"algo": algo} | train("tmaze-passive", core, seed, options)
        table.append({key: value for key, value in row.items() if value})
        print(*table[-1].values(), sep=" | ", flush=True)
    publish(
        f"passive T-maze of length {args.length}, options in the script's head", table, args.page
    )


if __name__ == "__main__":
    main()
