"""Training speed in environment steps per second, compared with sb3-contrib's RecurrentPPO.

Both train on the same POPGym task: rlmem on its tensor environment, sb3-contrib on the package's.
The number of environments, row length, epochs, minibatches and hidden size are equal. Iterations
alternate in one process; prints median speeds, and medians over rounds of the ratios in a round. A
round takes 10 to 20 seconds on an idle machine. `--precision fp32 bf16` also trains rlmem with
products in bfloat16. `--cpu-time` counts the seconds of the process alone, for one thread on a busy
machine. Needs the extra `bench` (`pip install -c constraints.txt -e '.[bench]'`).

    python scripts/bench_train.py [--cores ffm gru lstm] [--precision fp32 bf16] [--rounds 5] \
        [--threads N] [--cpu-time] [--page NAME]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import gymnasium as gym
import popgym  # noqa: F401 (registers its environments)
import torch
from hydra import compose, initialize_config_module
from pages import publish
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import DummyVecEnv

from rlmem.runs import precision
from rlmem.runs.build import build

TASK = "popgym-RepeatPreviousEasy-v0"
NUM_ENVS, NUM_STEPS, EPOCHS, MINIBATCHES, HIDDEN = 64, 128, 4, 8, 128
STEPS = NUM_ENVS * NUM_STEPS
RATIOS = ("x its defaults", "x equal minibatches", "x one LSTM")

# Runs one training iteration (rollout and update) of STEPS environment steps.
Iterate = Callable[[], object]


def rlmem_iterate(core: str, name: str) -> Iterate:
    """rlmem as built by the command line, with the same observations as sb3-contrib.

    `name` is that of the precision.
    """
    overrides = [
        "env=popgym-repeat",
        "env.previous_action=false",
        f"core={core}",
        f"precision={name}",
        f"num_envs={NUM_ENVS}",
        f"hidden_size={HIDDEN}",
        f"algo.num_steps={NUM_STEPS}",
        f"algo.num_epochs={EPOCHS}",
        f"algo.num_minibatches={MINIBATCHES}",
    ]
    with initialize_config_module("rlmem.configs", version_base="1.3"):
        cfg = compose("train", overrides)
    env, _, algo = build(cfg)

    def iterate() -> object:
        with precision.context(name, env.device):
            return algo.iterate(0.0)

    return iterate


def sb3_iterate(batch_size: int, shared: bool = False) -> Iterate:
    """RecurrentPPO with two LSTMs (its default) or one shared by actor and critic.

    `batch_size` is in steps.
    """
    env = DummyVecEnv([lambda: gym.make(TASK, disable_env_checker=True)] * NUM_ENVS)
    model = RecurrentPPO(
        "MlpLstmPolicy",
        env,
        n_steps=NUM_STEPS,
        batch_size=batch_size,
        n_epochs=EPOCHS,
        policy_kwargs={
            "lstm_hidden_size": HIDDEN,
            "net_arch": [HIDDEN],
            "shared_lstm": shared,
            "enable_critic_lstm": not shared,
        },
        device="cpu",
        seed=0,
    )
    return lambda: model.learn(STEPS, reset_num_timesteps=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cores", nargs="+", default=["ffm", "gru", "lstm"])
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=precision.PRECISIONS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch (default: as many as cores)")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="stable_baselines3|gymnasium")
    if args.threads:
        torch.set_num_threads(args.threads)
    equal = STEPS // MINIBATCHES
    trainers: dict[str, Iterate] = {
        "sb3-contrib, its batch_size of 128": sb3_iterate(128),
        f"sb3-contrib, batch_size {equal} (as many minibatches)": sb3_iterate(equal),
        "the same with one LSTM for actor and critic": sb3_iterate(equal, shared=True),
        **{
            f"rlmem core={core}" + (f" precision={name}" if name != "fp32" else ""): rlmem_iterate(
                core, name
            )
            for core in args.cores
            for name in args.precision
        },
    }
    clock = time.process_time if args.cpu_time else time.perf_counter
    speeds: dict[str, list[float]] = {name: [] for name in trainers}
    for iterate in trainers.values():
        iterate()
    for _ in range(args.rounds):
        for name, iterate in trainers.items():
            begun = clock()
            iterate()
            speeds[name].append(STEPS / (clock() - begun))
        print(*(f"{runs[-1]:,.0f}" for runs in speeds.values()), file=sys.stderr, flush=True)
    report(speeds, args.rounds, args.page)


def report(speeds: dict[str, list[float]], rounds: int, page: str | None) -> None:
    """Publish medians, and those of the ratios to the first three rows."""
    rivals = list(speeds.values())[:3]
    rows = []
    for name, runs in speeds.items():
        cells = {"trainer": name, "steps/s": f"{statistics.median(runs):,.0f}"}
        for title, rival in zip(RATIOS, rivals, strict=True):
            ratios = [mine / other for mine, other in zip(runs, rival, strict=True)]
            cells[title] = f"{statistics.median(ratios):.1f}"
        rows.append(cells)
    sizes = f"{NUM_ENVS} x {NUM_STEPS} steps, {EPOCHS} epochs of {MINIBATCHES} minibatches"
    threads = f"{torch.get_num_threads()} threads"
    publish(f"{TASK}, {sizes}, width {HIDDEN}, median of {rounds} rounds, {threads}", rows, page)


if __name__ == "__main__":
    main()
