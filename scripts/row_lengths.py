"""Training scans of cores against the length of their rows, at equal numbers of steps.

    python scripts/row_lengths.py [--width 128] [--steps 16384] [--lengths 128 512 2048 8192 16384]
                                  [--repeats 3] [--threads 1] [--cores ...] [--page row-lengths]

Each scan is forward and backward over `steps` steps in all, as rows of each length; times are
nanoseconds per step and unit. A core with a parallel scan gains nothing from longer rows on one
thread, and a core without one loses the batch that its loop computes at once. torch's GRU has no
resets; a loop over torch.nn.GRUCell is the usual way to add them. All contestants take turns.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from bench_cores import Contestant, cell_loop, rlmem_core, seconds, torch_module
from pages import publish
from torch import nn

CORES = ["gru", "lstm", "slstm", "s5", "lru", "mingru", "ffm", "mlstm", "gated_deltanet", "paragru"]


def contestants(rows: int, length: int, args: argparse.Namespace) -> list[Contestant]:
    x = torch.randn(rows, length, args.width)
    start = torch.rand(rows, length) < 1 / 50
    return [
        torch_module(nn.GRU, x),
        cell_loop(x, start),
        *(rlmem_core(name, x, start) for name in args.cores),
    ]


def measure(length: int, args: argparse.Namespace) -> dict[str, float]:
    """Median nanoseconds per step and unit of each contestant."""
    rows = max(1, args.steps // length)
    found: dict[str, list[float]] = {}
    runs = contestants(rows, length, args)
    for repeat in range(args.repeats + 1):
        for each in runs:
            taken = seconds(each.scan, torch.device("cpu"))
            if repeat:  # the first one warms up
                found.setdefault(each.name, []).append(taken)
    units = rows * length * args.width
    return {name: 1e9 * statistics.median(times) / units for name, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--steps", type=int, default=16384)
    parser.add_argument("--lengths", nargs="+", type=int, default=[128, 512, 2048, 8192, 16384])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cores", nargs="+", default=CORES)
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    found = {length: measure(length, args) for length in args.lengths}
    table = [
        {"core": name, **{f"T={length:,}": f"{ns[name]:.2f}" for length, ns in found.items()}}
        for name in found[args.lengths[0]]
    ]
    publish(
        f"ns per step and unit, forward and backward, {args.steps:,} steps in rows of T, width "
        f"{args.width}, a start in every 50 steps, float32, {args.threads} threads, median of "
        f"{args.repeats}",
        table,
        args.page,
    )


if __name__ == "__main__":
    main()
