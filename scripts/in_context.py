"""In-context learning from recorded data: Decision Transformer and Algorithm Distillation.

    python scripts/in_context.py dt [--cores gru ffm transformer_xl] [--data DIR] [--page NAME]
    python scripts/in_context.py ad [--cores gru ffm transformer_xl] [--data DIR] [--page NAME]

`dt` records PPO while it learns RepeatPrevious, trains agents on the data, and conditions them on
low to high target returns. `ad` records a separate PPO run for each training goal of a dark room of
5x5 cells, trains agents on these histories, and evaluates them on other goals, without weight
updates. DIR is the folder of the data; existing data is used.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from pages import publish
from program import rlmem

from rlmem.data.dataset import Dataset
from rlmem.envs.meta.dark_room import cells
from rlmem.envs.meta.splits import hold_out
from rlmem.envs.seeding import eval_seeds
from rlmem.policies.sequence import ReturnPolicy
from rlmem.runs import build, evaluate, playing

SIZE, LENGTH, EPISODES = 5, 10, 20
ROOM = ["env=meta-dark-room", f"env.size={SIZE}", f"env.length={LENGTH}"]
SOURCE = [
    *ROOM,
    "env.episodes=1",
    "env.horizon=1",
    "env.split=heldout",
    f"env.heldout_share={1 / SIZE**2}",
    *["core=none", "hidden_size=32", "num_envs=8", "algo.num_steps=50", "algo.num_minibatches=2"],
    *["algo.learning_rate=3e-3", "algo.anneal_lr=false", "total_steps=16000", "eval_episodes=1"],
    "log.tensorboard=false",
]
DT = ["algo=dt", "total_steps=3000000", "eval_episodes=10"]
AD = [
    *ROOM,
    f"env.episodes={EPISODES}",
    *["algo=ad", "algo.episode_stride=10", f"algo.length={EPISODES * LENGTH}"],
    *["total_steps=3000000", "eval_episodes=10"],
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["dt", "ad"])
    parser.add_argument("--cores", nargs="+", default=["gru", "ffm", "transformer_xl"])
    parser.add_argument("--data", type=Path, help="folder of the data; default: a temporary one")
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    args, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or Path(folder) / "data"
        measure, options = (asked, DT) if args.what == "dt" else (adapted, AD)
        if not data.exists():
            (record_repeat if args.what == "dt" else record_rooms)(data, Path(folder))
        rows = [chance(data)] if args.what == "dt" else []
        for core in args.cores:
            run = Path(folder) / core
            rlmem(
                "train", *options, f"algo.dataset={data}", f"core={core}", f"run_dir={run}", *more
            )
            for row in measure(run):
                rows.append({"core": core} | row)
                print(*rows[-1].values(), sep=" | ", flush=True)
    command = " ".join(["rlmem train core=CORE algo.dataset=DIR", *options, *more])
    publish(f"`{command}`", rows, args.page)


def record_repeat(data: Path, runs: Path) -> None:
    """Record PPO while it learns RepeatPrevious."""
    rlmem("train", "core=gru", f"record={data}", f"run_dir={runs / 'source'}", "eval_episodes=1")


def record_rooms(data: Path, runs: Path) -> None:
    """Record PPO on each goal of the split `train`, in a room with this goal only."""
    known, _ = hold_out(cells(SIZE), 0.2, 0)
    seeds: dict[object, int] = {}
    for seed in range(1000):
        _, only = hold_out(cells(SIZE), 1 / SIZE**2, seed)
        goal = only.values[0]
        if goal in known.values:
            seeds.setdefault(goal, seed)
    assert set(seeds) == set(known.values)
    sweep = f"env.split_seed={','.join(map(str, seeds.values()))}"
    rlmem("train", "-m", *SOURCE, sweep, f"record={data}", f"hydra.sweep.dir={runs / 'sources'}")


def chance(data: Path) -> dict[str, str]:
    """The returns in the data, for comparison with the target returns."""
    returns = Dataset(data).returns
    return {
        "core": "(the data: least, mean, greatest)",
        "asked for": f"{returns.min():.2f}, {returns.mean():.2f}, {returns.max():.2f}",
        "got": "",
    }


def asked(run: Path) -> list[dict[str, str]]:
    """Mean returns of 100 episodes with sampled actions, for each target return."""
    agent = evaluate.load(run)
    assert isinstance(agent.policy, ReturnPolicy)
    got = []
    targets = (-0.5, 0.0, 0.5, 1.0)
    for target in targets:
        agent.policy.target_return.fill_(target)
        returns = playing.play(
            agent.policy,
            lambda n: build.make_env(agent.cfg, n, agent.device),
            eval_seeds(0, 100),
            deterministic=False,
        )
        got.append(sum(returns) / len(returns))
    return [
        {
            "asked for": ", ".join(f"{each:.2f}" for each in targets),
            "got": ", ".join(f"{each:.2f}" for each in got),
        }
    ]


def adapted(run: Path) -> list[dict[str, str]]:
    """Mean returns of the episodes of 200 trials, with training goals and with held-out ones.

    For the random player and the oracle the mean over all episodes is enough: they do not adapt.
    """
    rows = []
    for split, goals in (("train", "of the data"), ("heldout", "held out")):
        rlmem("eval", f"run={run}", f"split={split}", "trials=200")
        returns = json.loads((run / f"eval-{split}.json").read_text())["returns"]
        curves = {name: np.mean(each, axis=(0, 1)) for name, each in returns.items()}
        shown = (0, 1, 2, 4, 9, EPISODES - 1)
        rows.append(
            {"goals": goals}
            | {f"episode {k + 1}": f"{curves['agent'][k]:.2f}" for k in shown}
            | {name: f"{curves[name].mean():.2f}" for name in ("random", "oracle")}
        )
    return rows


if __name__ == "__main__":
    main()
