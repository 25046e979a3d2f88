"""Passive T-maze: whether what was seen in the first step is still known a corridor later.

    python scripts/t_maze.py [--length 100] [--cores lru ...] [--seeds 0 1] [--page t-maze]
                             [key=value ...]

Runs `rlmem train env=tmaze-passive algo=amago` for every core and seed, and prints a table of
greedy returns on unseen seeds: 1 is both ways known, 0.5 the best there is without memory. The
corridor's penalty pays for every step, so that a short horizon is enough to walk it; what is long
here is what has to be remembered. A single false step, also one at random, loses an episode: so
there is little exploration, and none in some environments.
"""

from __future__ import annotations

import argparse
from itertools import product

from pages import publish
from reproduce import train

SETTINGS = [
    "num_envs=64",
    "hidden_size=64",
    "total_steps=600000",
    "algo.learning_starts=0",
    "algo.num_updates=20",
    "algo.gammas=[0.1,0.3,0.5]",
    "algo.tau=0.05",
    "algo.start_e=0.05",
    "algo.end_e=0.03",
    "algo.replay.capacity=50000",
]


def settings(length: int) -> list[str]:
    """What every run is told: a row of a batch is an episode of `length` + 1 steps."""
    rows = [f"{key}={length + 1}" for key in ("algo.num_steps", "algo.replay.length")]
    return ["algo=amago", f"env.corridor_length={length}", *rows, *SETTINGS]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--length", type=int, default=100, help="cells of the corridor")
    parser.add_argument("--cores", nargs="+", default=["lru"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    args, overrides = parser.parse_known_args()
    table = []
    for core, seed in product(args.cores, args.seeds):
        row = train("tmaze-passive", core, seed, settings(args.length) + overrides)
        table.append({key: value for key, value in row.items() if value})
        print(*table[-1].values(), sep=" | ", flush=True)
    command = " ".join(
        ["rlmem train env=tmaze-passive core=CORE seed=SEED", *settings(args.length), *overrides]
    )
    publish(f"`{command}`", table, args.page)


if __name__ == "__main__":
    main()
