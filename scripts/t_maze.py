"""Passive T-maze: whether what was seen in the first step is still known a corridor later.

    python scripts/t_maze.py [--length 100] [--cores deltanet ...] [--seeds 0 1 2] [--page t-maze]
                             [key=value ...]

Runs `rlmem train env=tmaze-passive algo=amago` for every core and seed, and prints a table of
greedy returns on unseen seeds: 1 is both ways known, 0.5 the best there is without memory. The
corridor's penalty pays for every step, so that a short horizon is enough to walk it; what is long
here is what has to be remembered.

A single false step loses an episode. So the goal is found only where the one step at random is the
one at the junction: however much is strayed, in fewer than one of 250 episodes. That asks for many
environments that stray little, and for learning from the few that were a surprise: a segment is an
episode, drawn by priority. Cloning counts little: after a false step all actions are equally good,
and which of them seem better is noise. With the default weight the corridor was lost at times.
"""

from __future__ import annotations

import argparse
from itertools import product

from pages import publish
from reproduce import train

NUM_ENVS = 256
EPISODES = 8  # that the replay keeps of each environment
SETTINGS = [
    "algo=amago",
    f"num_envs={NUM_ENVS}",
    "hidden_size=64",
    "total_steps=3000000",
    "algo.learning_starts=0",
    "algo.num_updates=30",
    "algo.gammas=[0.1,0.3,0.5]",
    "algo.tau=0.05",
    "algo.learning_rate=5e-4",
    "algo.max_grad_norm=2",
    "algo.offline_coef=0.01",
    "algo.start_e=0.03",
    "algo.end_e=0.01",
    "algo.replay.batching=segments",
    "algo.replay.alpha=0.7",
]


def settings(length: int) -> list[str]:
    """What every run is told: a segment is an episode, with its last observation an entry more."""
    steps = length + 1
    sizes = {
        "env.corridor_length": length,
        "algo.num_steps": steps,
        "algo.replay.length": steps,
        "algo.replay.stride": steps + 1,
        "algo.replay.capacity": NUM_ENVS * EPISODES * (steps + 1),
    }
    return [*SETTINGS, *(f"{key}={size}" for key, size in sizes.items())]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--length", type=int, default=100, help="cells of the corridor")
    parser.add_argument("--cores", nargs="+", default=["deltanet"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
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
