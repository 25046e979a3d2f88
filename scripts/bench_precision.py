"""Training steps per second with precision=bf16 and with fp32, and their ratio.

    python scripts/bench_precision.py [--cores ffm gru] [--rounds 9] [--page NAME] [KEY=VALUE ...]

Iterations of PPO alternate in one process, so that a change of the machine meets both; printed are
medians, and the median of the ratios of neighbouring iterations. `--cpu-time` counts the seconds of
the process alone, for one thread on a busy machine. `--profile` prints the operators that take the
most time instead.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from hydra import compose, initialize_config_module
from pages import publish

from rlmem.runs import precision
from rlmem.runs.build import build

TASK = ["env=popgym-repeat", "device=cpu"]
# Runs one training iteration and returns its seconds.
Iterate = Callable[[], float]


def iterations(
    core: str, name: str, options: list[str], clock: Callable[[], float]
) -> tuple[Iterate, int]:
    """Iterations with one precision, and the steps in each; `clock` returns seconds."""
    with initialize_config_module("rlmem.configs", version_base="1.3"):
        cfg = compose("train", [*TASK, f"core={core}", f"precision={name}", *options])
    env, _, algo = build(cfg)
    precision.require(cfg, env.device)

    def iterate() -> float:
        begun = clock()
        with precision.context(name, env.device):
            algo.iterate(0.0)
        return clock() - begun

    return iterate, algo.steps_per_iteration


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cores", nargs="+", default=["ffm", "gru"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    parser.add_argument("options", nargs="*", help="options of rlmem train")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock, rows = time.process_time if args.cpu_time else time.perf_counter, []
    for core in args.cores:
        both = {name: iterations(core, name, args.options, clock) for name in precision.PRECISIONS}
        for iterate, _ in both.values():
            iterate()
        if args.profile:
            for name, (iterate, _) in both.items():
                profile(f"{core} {name}", iterate)
            continue
        found = [[iterate() for iterate, _ in both.values()] for _ in range(args.rounds)]
        steps = both["fp32"][1]
        wide, narrow = (statistics.median(steps / each[i] for each in found) for i in (0, 1))
        ratio = statistics.median(slow / fast for slow, fast in found)
        cells = {"fp32, steps/s": f"{wide:,.0f}", "bf16, steps/s": f"{narrow:,.0f}"}
        rows.append({"core": core, **cells, "ratio": f"{ratio:.2f}"})
        print(rows[-1], flush=True)
    if rows:
        about = f"PPO on popgym-repeat, {args.threads} thread(s), median of {args.rounds} rounds"
        publish(about, rows, args.page)


def profile(title: str, iterate: Iterate) -> None:
    """Print the operators of one iteration with their own time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        iterate()
    print(title)
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))


if __name__ == "__main__":
    main()
