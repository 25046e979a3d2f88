"""Steps per second of POPGym's tasks on tensors, against the package.

    python scripts/bench_envs.py [task ...] [--difficulty easy] [--rounds 7] [--seconds 0.2]
                                 [--threads 1] [--devices cpu cuda] [--page bench-envs]

The package's own class plays alone (`package`), 64 of them as `backend=package`, and N at once as
`backend=tensor`. All play actions that were drawn before, at random, and start again where an
episode has ended. They take turns of at least `--seconds` and one longest episode; medians over
the rounds are printed, with ratios to the package's one. `checked` is how much longer a step takes
with `check_actions`, which looks at the values of all actions.
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
CHUNK, EPISODE = 64, 832  # steps between looks at the clock, and in a turn at least
DRAWN = 16  # batches of actions

# Plays that many steps.
Play = Callable[[int], object]


class Player:
    """One way to play a task: `num_envs` environments, and how to step them."""

    def __init__(self, name: str, num_envs: int, play: Play) -> None:
        self.name = name
        self.num_envs = num_envs
        self.play = play
        self.seconds: list[float] = []

    def take_turn(self, seconds: float) -> None:
        """Note how long a step of all environments takes."""
        synchronize()
        played, begun = 0, time.perf_counter()
        while played < EPISODE or time.perf_counter() - begun < seconds:
            self.play(CHUNK)
            played += CHUNK
        synchronize()
        self.seconds.append((time.perf_counter() - begun) / played)

    @property
    def step(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Steps per second, of all environments together."""
        return self.num_envs / self.step


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def alone(task: str, difficulty: str) -> Player:
    """The package's own class."""
    env: Any = getattr(popgym.envs, FAMILIES[task] + difficulty.capitalize())()
    env.action_space.seed(0)
    actions = cycle([env.action_space.sample() for _ in range(1024)])
    env.reset(seed=0)

    def play(steps: int) -> None:
        for action in islice(actions, steps):
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    return Player("package", 1, play)


def together(name: str, task: str, num_envs: int, **options: Any) -> Player:
    """One of our backends."""
    env = envs.make(task, num_envs=num_envs, previous_action=False, **options)
    actions = cycle(list(draw(env)))
    env.reset(0)

    def play(steps: int) -> None:
        for action in islice(actions, steps):
            env.step(action)

    return Player(name, num_envs, play)


def draw(env: envs.VecEnv) -> Iterator[envs.Tensors]:
    """Batches of random actions; of many environments, each block of 256 does the same."""
    space = env.action_space["action"]
    space.seed(0)
    for _ in range(DRAWN):
        rows = np.stack([space.sample() for _ in range(min(env.num_envs, 256))])
        action = torch.from_numpy(np.resize(rows, (env.num_envs, *rows.shape[1:])))
        yield {"action": action.to(env.device)}


def players(task: str, args: argparse.Namespace) -> list[Player]:
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
    found = players(task, args)
    for player in found:
        player.take_turn(0)
        player.seconds.clear()
    for _ in range(args.rounds):
        for player in found:
            player.take_turn(args.seconds)
    one = found[0]
    row = {"task": task.removeprefix("popgym-"), "package": short(one.rate)}
    by_name = {player.name: player for player in found[1:]}
    for name, player in by_name.items():
        if name.endswith("checked"):
            plain = by_name[name.removesuffix(" checked")]
            row[plain.name] += f", checked {100 * (player.step / plain.step - 1):+.0f} %"
        else:
            row[name] = f"{short(player.rate)} ({player.rate / one.rate:.1f}x)"
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
    parser.add_argument("--seconds", type=float, default=0.2, help="of a turn, at least")
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
