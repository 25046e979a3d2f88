"""Steps per second of POPGym's tasks on tensors, compared with the package.

    python scripts/bench_envs.py [task ...] [--difficulty easy] [--rounds 7] [--seconds 0.2]
                                 [--threads 1] [--devices cpu cuda] [--page bench-envs]

Contenders are one environment of the package (`package`), 64 of them as `backend=package`, and N
as `backend=tensor`. Random actions are drawn beforehand; ended episodes are followed by new ones.
The contenders take turns of at least `--seconds` and one longest episode. Printed are medians over
the rounds, with ratios to the single environment of the package. `checked` is the slowdown of a
step with `check_actions`, which validates the values of all actions.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any

import numpy as np
import popgym.envs
import torch
from pages import publish

from rlmem import envs
from rlmem.envs.popgym.task import DIFFICULTIES, FAMILIES

SIZES = (64, 1024, 16384)
PACKAGE = 64  # environments of the package in one batch
CHUNK, EPISODE = 64, 832  # steps between readings of the clock; fewest steps in a turn
DRAWN = 16  # number of batches of actions

# Takes that many steps.
Play = Callable[[int], object]


class Contender:
    """An implementation of a task: `num_envs` environments, and a function that steps them."""

    def __init__(self, name: str, num_envs: int, play: Play) -> None:
        self.name = name
        self.num_envs = num_envs
        self.play = play
        self.seconds: list[float] = []

    def take_turn(self, seconds: float) -> None:
        """Measure and record the seconds per step of all environments."""
        synchronize()
        played, begun = 0, time.perf_counter()
        while played < EPISODE or time.perf_counter() - begun < seconds:
            self.play(CHUNK)
            played += CHUNK
        synchronize()
        self.seconds.append((time.perf_counter() - begun) / played)

    @property
    def step(self) -> float:
        """Seconds per step, the median over turns."""
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Steps per second, of all environments together."""
        return self.num_envs / self.step


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def alone(task: str, difficulty: str) -> Contender:
    """One environment of the package."""
    env: Any = getattr(popgym.envs, FAMILIES[task] + difficulty.capitalize())()
    env.action_space.seed(0)
    actions = cycle([env.action_space.sample() for _ in range(1024)])
    env.reset(seed=0)

    def play(steps: int) -> None:
        for action in islice(actions, steps):
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    return Contender("package", 1, play)


def together(name: str, task: str, num_envs: int, **options: Any) -> Contender:
    """A batch of one of our backends."""
    env = envs.make(task, num_envs=num_envs, previous_action=False, **options)
    actions = cycle(list(draw(env)))
    env.reset(0)

    def play(steps: int) -> None:
        for action in islice(actions, steps):
            env.step(action)

    return Contender(name, num_envs, play)


def draw(env: envs.VecEnv) -> Iterator[envs.Tensors]:
    """Batches of random actions; with many environments, blocks of 256 are equal."""
    space = env.action_space["action"]
    space.seed(0)
    for _ in range(DRAWN):
        rows = np.stack([space.sample() for _ in range(min(env.num_envs, 256))])
        action = torch.from_numpy(np.resize(rows, (env.num_envs, *rows.shape[1:])))
        yield {"action": action.to(env.device)}


def contenders(task: str, args: argparse.Namespace) -> list[Contender]:
    options = {"difficulty": args.difficulty}
    found = [
        alone(task, args.difficulty),
        together(f"package, {PACKAGE}", task, PACKAGE, backend="package", **options),
    ]
    for device in args.devices:
        options["device"] = device
        for num_envs in SIZES:
            name = f"{device}, {num_envs:,}"
            found.append(together(name, task, num_envs, **options))
            found.append(together(f"{name} checked", task, num_envs, check_actions=True, **options))
    return found


def measure(task: str, args: argparse.Namespace) -> dict[str, str]:
    """A row of the table."""
    found = contenders(task, args)
    for contender in found:
        contender.take_turn(0)
        contender.seconds.clear()
    for _ in range(args.rounds):
        for contender in found:
            contender.take_turn(args.seconds)
    one = found[0]
    row = {"task": task.removeprefix("popgym-"), "package": short(one.rate)}
    by_name = {contender.name: contender for contender in found[1:]}
    for name, contender in by_name.items():
        if name.endswith("checked"):
            plain = by_name[name.removesuffix(" checked")]
            row[plain.name] += f", checked {100 * (contender.step / plain.step - 1):+.0f} %"
        else:
            row[name] = f"{short(contender.rate)} ({contender.rate / one.rate:.1f}x)"
    return row


def short(rate: float) -> str:
    """Such as 512k or 41.3M."""
    return f"{rate / 1e6:.1f}M" if rate >= 1e6 else f"{rate / 1e3:.0f}k"


def parse() -> argparse.Namespace:
    names = [name for name in envs.names() if name in FAMILIES]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task", nargs="*", help=f"some of {', '.join(names)}; all by default")
    parser.add_argument("--difficulty", default="easy", choices=DIFFICULTIES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.2, help="least duration of a turn")
    parser.add_argument("--threads", type=int, default=1)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--devices", nargs="+", default=devices, choices=["cpu", "cuda"])
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    args = parser.parse_args()
    args.task = args.task or names
    unknown = set(args.task) - set(names)
    if unknown:
        parser.error(f"no task of POPGym: {', '.join(sorted(unknown))}")
    return args


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    rows = []
    for task in args.task:
        rows.append(measure(task, args))
        print(*rows[-1].values(), sep="  ", flush=True)
    threads = f"{args.threads} thread{'s' if args.threads > 1 else ''}"
    about = f"Environment steps per second, difficulty {args.difficulty}, {threads} on the CPU"
    publish(about, rows, args.page)


if __name__ == "__main__":
    main()
