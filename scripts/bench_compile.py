"""Training steps per second with compile=inductor and with none, their ratio, and the compile time.

    python scripts/bench_compile.py [--cores ffm gru] [--rounds 9] [--page NAME] [KEY=VALUE ...]

Iterations of PPO alternate in one process, so that a change of the machine meets both; printed are
medians, and the median of the ratios of neighbouring iterations. The compile time is that of the
first iteration, less a median one. `--cpu-time` counts the seconds of the process and its
compilers alone, for one thread on a busy machine.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch
from hydra import compose, initialize_config_module
from pages import publish

from rlmem.runs.build import build

TASK = ["env=popgym-repeat", "device=cpu"]
MODES = ("none", "inductor")


def cpu_seconds() -> float:
    """Seconds of all cores in this process and in those that it has started and ended."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(each) for each in who]
    return sum(each.ru_utime + each.ru_stime for each in used)


def iterations(
    core: str, mode: str, options: list[str], clock: Callable[[], float]
) -> tuple[Callable[[], float], int]:
    """A function that runs one iteration and returns its seconds, and the steps in one."""
    with initialize_config_module("rlmem.configs", version_base="1.3"):
        cfg = compose("train", [*TASK, f"core={core}", f"compile={mode}", *options])
    _, _, algo = build(cfg)

    def iterate() -> float:
        begun = clock()
        algo.iterate(0.0)
        return clock() - begun

    return iterate, algo.steps_per_iteration


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cores", nargs="+", default=["ffm", "gru"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    parser.add_argument("options", nargs="*", help="options of rlmem train")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock, rows = cpu_seconds if args.cpu_time else time.perf_counter, []
    for core in args.cores:
        both = {mode: iterations(core, mode, args.options, clock) for mode in MODES}
        first = {mode: iterate() for mode, (iterate, _) in both.items()}
        found = [[iterate() for iterate, _ in both.values()] for _ in range(args.rounds)]
        steps = both["none"][1]
        plain, compiled = (statistics.median(steps / each[i] for each in found) for i in (0, 1))
        ratio = statistics.median(slow / fast for slow, fast in found)
        rows.append({"core": core, "none, steps/s": f"{plain:,.0f}"})
        rows[-1] |= {"inductor, steps/s": f"{compiled:,.0f}", "ratio": f"{ratio:.2f}"}
        rows[-1]["compile time, s"] = f"{first['inductor'] - steps / compiled:.0f}"
        print(rows[-1], flush=True)
    kind = ", CPU time" if args.cpu_time else ""
    about = f"PPO on popgym-repeat, {args.threads} thread(s), median of {args.rounds} rounds{kind}"
    publish(about, rows, args.page)


if __name__ == "__main__":
    main()
