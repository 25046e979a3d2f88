"""Training steps per second with compile=inductor and with none, their ratio, and the compile time.

    python scripts/bench_compile.py [--cores ffm gru] [--rounds 9] [--page NAME] [KEY=VALUE ...]

Iterations of PPO alternate in one process, so that a change of the machine meets both; printed are
medians, and the median of the ratios of neighbouring iterations. The compile time is that of the
first iteration, less a median one. `--cpu-time` counts the seconds of the process and its
compilers alone, for one thread on a busy machine.
"""

from __future__ import annotations

import in_turns
import torch
from pages import publish


def main() -> None:
    args = in_turns.parser(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    clock, rows = in_turns.clock(args), []
    for core in args.cores:
        (none, steps), (inductor, _) = (
            in_turns.iterations([f"core={core}", f"compile={mode}", *args.options], clock)
            for mode in ("none", "inductor")
        )
        none()
        first = inductor()
        found = in_turns.compare(none, inductor, steps, args.rounds)
        row = {"core": core, "none, steps/s": f"{found.one:,.0f}"}
        row |= {"inductor, steps/s": f"{found.other:,.0f}", "ratio": f"{found.ratio:.2f}"}
        rows.append(row | {"compile time, s": f"{first - steps / found.other:.0f}"})
        print(rows[-1], flush=True)
    publish(in_turns.caption(args), rows, args.page)


if __name__ == "__main__":
    main()
