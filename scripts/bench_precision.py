"""Training steps per second with precision=bf16 and with fp32, and their ratio.

    python scripts/bench_precision.py [--cores ffm gru] [--rounds 9] [--page NAME] [KEY=VALUE ...]

Iterations of PPO alternate in one process, so that a change of the machine meets both; printed are
medians, and the median of the ratios of neighbouring iterations. `--cpu-time` counts the seconds of
the process alone, for one thread on a busy machine. `--profile` prints the operators that take the
most time instead.
"""

from __future__ import annotations

import in_turns
import torch
from pages import publish

from rlmem.runs.precision import PRECISIONS


def main() -> None:
    parser = in_turns.parser(__doc__)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for core in args.cores:
        both = {
            name: in_turns.iterations(
                [f"core={core}", f"precision={name}", *args.options], in_turns.clock(args)
            )
            for name in PRECISIONS
        }
        for iterate, _ in both.values():
            iterate()
        if args.profile:
            for name, (iterate, _) in both.items():
                profile(f"{core} {name}", iterate)
            continue
        (wide, steps), (narrow, _) = both["fp32"], both["bf16"]
        found = in_turns.compare(wide, narrow, steps, args.rounds)
        cells = {"fp32, steps/s": f"{found.one:,.0f}", "bf16, steps/s": f"{found.other:,.0f}"}
        rows.append({"core": core, **cells, "ratio": f"{found.ratio:.2f}"})
        print(rows[-1], flush=True)
    if rows:
        publish(in_turns.caption(args), rows, args.page)


def profile(title: str, iterate: in_turns.Iterate) -> None:
    """Print the operators of one iteration with their own time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        iterate()
    print(title)
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))


if __name__ == "__main__":
    main()
