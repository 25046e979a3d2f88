"""Normalised observations: a task with large numbers, and CartPole, which has small ones.

    python scripts/normalization.py [--seeds 0 1 2] [--page normalization]

Runs `rlmem train` with and without statistics of observations, and prints the greedy returns on
unseen seeds. The robot of `examples/depot.py` learns its order at the first step; its positions
have a deviation of about 1,500, or of 1.5 if they are divided by hand.
"""

from __future__ import annotations

import argparse

from pages import publish
from reproduce import train

DEPOT = ["env.id=examples/depot.py:Depot", "num_envs=32", "hidden_size=32", "total_steps=50000"]
DEPOT += ["algo.num_steps=64", "algo.num_minibatches=4", "algo.gamma=0.95"]
CART_POLE = ["env.id=CartPole-v1", "total_steps=60000"]
RUNS = {
    "depot, divided by hand": [*DEPOT, "env.kwargs.scale=1"],
    "depot, normalize_obs=false": [*DEPOT, "policy.normalize_obs=false"],
    "depot, normalize_obs=auto": DEPOT,
    "CartPole-v1, normalize_obs=false": [*CART_POLE, "policy.normalize_obs=false"],
    "CartPole-v1, normalize_obs=auto": CART_POLE,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    args = parser.parse_args()
    table = []
    for name, options in RUNS.items():
        rows = [train("gym", "gru", seed, options) for seed in args.seeds]
        returns = {f"seed {row['seed']}": row["greedy return"] for row in rows}
        table.append({"task": name, **returns, "steps": rows[0]["steps"]})
        print(*table[-1].values(), sep=" | ", flush=True)
    command = " ".join(["rlmem train env=gym core=gru seed=SEED", *DEPOT])
    publish(
        f"greedy returns of `{command}` and, for CartPole, {' '.join(CART_POLE)}", table, args.page
    )


if __name__ == "__main__":
    main()
