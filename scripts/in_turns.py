"""Iterations of PPO with two values of an option, in turns in one process.

A change of the machine meets both. For scripts/bench_compile.py and scripts/bench_precision.py.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hydra import compose, initialize_config_module

from rlmem.runs import precision
from rlmem.runs.build import build

TASK = ["env=popgym-repeat", "device=cpu"]

Clock = Callable[[], float]
# Runs one training iteration and returns its seconds.
Iterate = Callable[[], float]


class Speeds(NamedTuple):
    """Median steps per second of both, and the median of the ratios of neighbouring iterations."""

    one: float
    other: float
    ratio: float


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that the scripts share."""
    found = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    found.add_argument("--cores", nargs="+", default=["ffm", "gru"])
    found.add_argument("--rounds", type=int, default=9)
    found.add_argument("--threads", type=int, default=1)
    found.add_argument("--cpu-time", action="store_true")
    found.add_argument("--page", help="write docs/results/PAGE.md")
    found.add_argument("options", nargs="*", help="options of rlmem train")
    return found


def clock(args: argparse.Namespace) -> Clock:
    """The clock of `--cpu-time`, or that of the wall."""
    return cpu_seconds if args.cpu_time else time.perf_counter


def cpu_seconds() -> float:
    """Seconds of all cores in this process and in those that it has started and ended."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(each) for each in who]
    return sum(each.ru_utime + each.ru_stime for each in used)


def iterations(options: Sequence[str], clock: Clock) -> tuple[Iterate, int]:
    """Iterations of a training with these options, and the steps in each."""
    with initialize_config_module("rlmem.configs", version_base="1.3"):
        cfg = compose("train", [*TASK, *options])
    env, _, algo = build(cfg)
    precision.require(cfg, env.device)

    def iterate() -> float:
        begun = clock()
        with precision.context(cfg.precision, env.device):
            algo.iterate(0.0)
        return clock() - begun

    return iterate, algo.steps_per_iteration


def compare(one: Iterate, other: Iterate, steps: int, rounds: int) -> Speeds:
    """The speeds of two iterations of `steps` steps that take turns."""
    found = [(one(), other()) for _ in range(rounds)]
    first, second = (statistics.median(steps / each[i] for each in found) for i in (0, 1))
    return Speeds(first, second, statistics.median(slow / fast for slow, fast in found))


def caption(args: argparse.Namespace) -> str:
    """The line above a table of these measurements."""
    kind = ", CPU time" if args.cpu_time else ""
    return f"PPO on popgym-repeat, {args.threads} thread(s), median of {args.rounds} rounds{kind}"
