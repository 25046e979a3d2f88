"""Tape batching compared with segments from the initial state, at equal transitions per update.

    python scripts/tape.py [--env popgym-count-recall] [--core ffm] [--seeds 0 1 2]
                           [--transitions 1280] [--segment 20] [--tape 160] [--steps 150000]
                           [--page tape] [option=value ...]

Recurrent Q-learning (`algo=r2d2`) uses the same number of steps in every update: either segments
that start anywhere in an episode, from the initial state, or tapes of whole episodes, end to end
(Morad et al. 2024, arXiv 2402.09900). Both are sampled uniformly; all else is equal. Further
arguments set options of the algorithm. The table has the greedy returns on unseen seeds.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from pages import publish

from rlmem import algos, envs
from rlmem.envs.seeding import eval_seeds, train_seeds
from rlmem.policies import QPolicy
from rlmem.runs import playing

NUM_ENVS = 64
EPISODES = 200


def batchings(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The replay options of each compared batching."""
    shared = {"burn_in": 0, "alpha": 0.0, "stored_state": False}
    sizes = {
        "segments": {"batching": "segments", "length": args.segment, "stride": args.segment},
        "tape": {"batching": "tape", "length": args.tape},
    }
    return {
        name: {**shared, **options, "batch_size": args.transitions // options["length"]}
        for name, options in sizes.items()
    }


def train(args: argparse.Namespace, replay: dict[str, Any], seed: int) -> tuple[float, float]:
    """Train once; returns the greedy return, and the training time in seconds."""
    torch.manual_seed(seed)
    env = envs.make(args.env, num_envs=NUM_ENVS)
    policy = QPolicy(env.observation_space, env.action_space, core=args.core)
    options: Any = OmegaConf.to_container(OmegaConf.from_dotlist(args.options))
    algo = algos.make(
        "r2d2",
        env=env,
        policy=policy,
        seed=train_seeds(seed, NUM_ENVS),
        replay=replay,
        **options,
    )
    begun = time.perf_counter()
    for done in range(0, args.steps, algo.steps_per_iteration):
        algo.iterate(done / args.steps)
    seconds = time.perf_counter() - begun
    returns = playing.play(
        policy, lambda n: envs.make(args.env, num_envs=n), eval_seeds(seed, EPISODES)
    )
    return float(np.mean(returns)), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env", default="popgym-count-recall")
    parser.add_argument("--core", default="ffm")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--transitions", type=int, default=1280)
    parser.add_argument("--segment", type=int, default=20)
    parser.add_argument("--tape", type=int, default=160)
    parser.add_argument("--steps", type=int, default=150_000)
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    parser.add_argument("options", nargs="*", help="options of the algorithm: option=value")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    for seed in args.seeds:
        for name, replay in batchings(args).items():
            score, seconds = train(args, replay, seed)
            table.append(
                {
                    "batching": name,
                    "rows x steps": f"{replay['batch_size']} x {replay['length']}",
                    "seed": str(seed),
                    "greedy return": f"{score:.3f}",
                    "seconds": f"{seconds:.0f}",
                }
            )
            print(*table[-1].values(), sep=" | ", flush=True)
    caption = (
        f"`r2d2` on {args.env} (easy) with {args.core}, {args.steps:,} steps, "
        f"{args.transitions} transitions in every update, greedy return of {EPISODES} episodes"
    )
    publish(caption, table, args.page)


if __name__ == "__main__":
    main()
