"""Passive T-maze: whether the cue of the first step is remembered at the end of the corridor.

    python scripts/t_maze.py [--length 100] [--cores deltanet ...] [--seeds 0 1 2] [--page t-maze]
                             [key=value ...]

Runs `rlmem train env=tmaze-passive algo=amago` for every core and seed, and prints a table of
greedy returns on unseen seeds. 1 means both goals are reached, 0.5 is the optimum without memory.
The penalty gives feedback in every step, so a short horizon is enough to learn to walk. Only the
memory has to span the whole corridor.

A single wrong step loses the goal. So exploration finds the goal only if its one random step is the
turn at the junction: in fewer than one of 250 episodes, for any exploration rate. This needs many
environments with little exploration, and prioritised replay of the few surprising episodes (a
segment is an episode). The weight of cloning is small: after a wrong step all actions are equally
good, and their estimated differences are noise. With the default weight, agents sometimes unlearned
the corridor.
"""

from __future__ import annotations

import argparse
from itertools import product

from pages import publish
from reproduce import train

NUM_ENVS = 256
EPISODES = 8  # episodes of each environment in the replay
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
    """Options of every run: a segment is an episode, one entry longer for its last observation."""
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
