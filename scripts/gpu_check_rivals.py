"""PPO of memorax, a JAX library, beside ours, on bsuite's memory chain at equal work.

Without memorax and its packages (see `memorax_ppo`), only a note is written. Compile time is listed
apart, as the time of the first iteration.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import NamedTuple

import memorax_ppo
from gpu_check_ppo import Trainer
from gpu_check_worker import Deadline, emit, parser, prepare, serve

SIZES, SMALL = (1024, 4096), (8,)
STEPS, SMALL_STEPS, WIDTH = 128, 16, 128
REPEATS = 5

Iterate = Callable[[], float]


class Case(NamedTuple):
    """A library, its memories, and a number of environments."""

    library: str
    core: str
    envs: int


def cases(small: bool) -> list[Case]:
    """memorax has one memory for the actor and one for the critic; so has our first case."""
    kinds = (("memorax", "two gru"), ("rlmem", "two gru"), ("rlmem", "gru"), ("rlmem", "ffm"))
    return [Case(*kind, envs) for envs in (SMALL if small else SIZES) for kind in kinds]


def ours(case: Case, options: argparse.Namespace) -> Iterate:
    """Our PPO; returns a function that runs one iteration and returns its seconds."""
    core = case.core.removeprefix("two ")
    trainer = Trainer(core, case.envs, options, separate_critic=core != case.core)
    return lambda: trainer.iterate()[0]


def theirs(case: Case, options: argparse.Namespace) -> Iterate:
    """PPO of memorax; raises `ImportError` if it is not there."""
    steps = SMALL_STEPS if options.small else STEPS
    return memorax_ppo.training(case.envs, steps, WIDTH, options.device).iterate


def measure(case: Case, options: argparse.Namespace) -> None:
    """Emit the speed of a case."""
    iterate = (theirs if case.library == "memorax" else ours)(case, options)
    first = iterate()
    iterate()  # memorax compiles a second time
    seconds = statistics.median(iterate() for _ in range(1 if options.small else REPEATS))
    steps = case.envs * (SMALL_STEPS if options.small else STEPS)
    emit("row", **case._asdict(), steps_s=steps / seconds, first_s=first)


def main() -> None:
    options = parser((__doc__ or "").splitlines()[0]).parse_args()
    options.task = "memory-chain"
    prepare(options.device)
    missing = False

    def run(case: Case, deadline: Deadline) -> None:
        nonlocal missing
        if missing:
            return
        try:
            measure(case, options)
        except ImportError as error:
            missing = True
            emit("note", text=f"{case.library} is not importable here: {error}")

    serve(cases(options.small), run, lambda case: " ".join(map(str, case)), options)


if __name__ == "__main__":
    main()
