"""Costs of all cores in one table: numbers of state, time of a step and of a scan.

    python scripts/core_costs.py [--repeats 7] [--cores ...] [--page core-costs]

Width 64, default options, one thread. A step has 1 or 64 rows and no gradients. A scan is forward
and backward of 4,096 steps, in 32 rows of 128 and in one row of 4,096, with starts about every 50
steps; its time is per number of the input. Times are CPU times of the one thread. The cores take
turns, and the table has the fastest of the rounds: so other load disturbs least.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from generate_pages import core_size
from pages import publish

from rlmem import cores
from rlmem.cores.base import registry

WIDTH, STEPS = 64, 4096
BATCHES, LENGTHS = (1, 64), (128, 4096)
# Seconds that one measurement of steps lasts, so that the clock is precise.
AT_LEAST = 0.02


def all_cores() -> list[str]:
    """Every core once."""
    return sorted({registry.get(name): name for name in cores.names()}.values())


def seconds(run: Callable[[], object], calls: int = 1) -> float:
    """CPU seconds of one call."""
    begun = time.process_time()
    for _ in range(calls):
        run()
    return (time.process_time() - begun) / calls


def time_step(core: cores.MemoryCore, rows: int) -> float:
    """Microseconds of a step."""
    x, start = torch.randn(rows, WIDTH), torch.zeros(rows, dtype=torch.bool)
    with torch.no_grad():
        _, state = core.step(x, core.initial_state(rows), start)

        def run() -> object:
            return core.step(x, state, start)

        calls = max(1, round(AT_LEAST / seconds(run)))
        return 1e6 * seconds(run, calls)


def time_scan(core: cores.MemoryCore, length: int) -> float:
    """Nanoseconds of a scan, forward and backward, per number of its input."""
    rows = STEPS // length
    x = torch.randn(rows, length, WIDTH, requires_grad=True)
    start = torch.rand(rows, length) < 1 / 50

    def run() -> None:
        y, _ = core.scan(x, core.initial_state(rows), start)
        y.sum().backward()
        core.zero_grad()

    return 1e9 * seconds(run) / x.numel()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--cores", nargs="+", default=all_cores())
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    made = {name: cores.make(name, input_size=WIDTH) for name in args.cores}
    best: dict[tuple[str, str], float] = defaultdict(lambda: float("inf"))
    questions: dict[str, Callable[[cores.MemoryCore], float]] = {
        **{f"step us, B={n}": lambda core, n=n: time_step(core, n) for n in BATCHES},
        **{f"scan ns, T={n:,}": lambda core, n=n: time_scan(core, n) for n in LENGTHS},
    }
    for _ in range(args.repeats + 1):
        for name, core in made.items():
            for title, measure in questions.items():
                best[name, title] = min(best[name, title], measure(core))
            gc.collect()
    rows = [
        {"core": name, "state": f"{core_size(name)[0]:,}"}
        | {title: f"{best[name, title]:,.0f}" for title in questions}
        for name in args.cores
    ]
    about = (
        f"width {WIDTH}, default options, float32, CPU time of 1 thread, best of "
        f"{args.repeats + 1} rounds; a scan is forward and backward of {STEPS:,} steps, ns per "
        "number of the input"
    )
    publish(about, rows, args.page)


if __name__ == "__main__":
    main()
