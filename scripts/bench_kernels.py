"""Benchmark of the operators: time, bandwidth and memory, for each form of each operator.

    python scripts/bench_kernels.py [op ...] [--quick | --shapes 16x1024x256 ...] [--device cuda]

`ops/` defines each operator's shapes, variants and forms. The forms of a case run in turns, so that
disturbances affect all of them; medians are printed. GB/s counts each input read once and each
output written once. The percentage refers to the bandwidth of adding two large tensors into a third
one, measured in the same turns with one thread and with all, the faster of the two; the third
tensor was written before, and a fresh one is printed for comparison. Extra memory is the peak
beyond the inputs, in tensors of the result's size. The error is the largest one of the result and
of the gradients (if computed), relative to the largest entry, against the definition in float64.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import gc
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import ops
import torch
from ops.base import Case, Op, Run, Shape, bind, errors, max_or_nan
from pages import publish
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rlmem.kernels import native

PASSES = ("forward", "both")
DTYPES = ("float32", "bfloat16")
NARROW_TOLERANCE = 0.1  # of other forms' results in bfloat16
SHORT = 0.05  # seconds
STREAM = 2**25  # elements of each tensor in the bandwidth measurement


class Result(NamedTuple):
    case: Case
    form: str
    seconds: float
    bandwidth: float
    bandwidth_fresh: float
    extra: float
    error: float

    def figures(self) -> dict[str, float]:
        """The numbers to print and write."""
        work = ops.get(self.case.op).work(self.case)
        rate = work.bytes / self.seconds
        return {
            "ms": self.seconds * 1e3,
            "ns/element": self.seconds / work.elements * 1e9,
            "GB/s": rate / 1e9,
            "% of bandwidth": 100 * rate / self.bandwidth,
            "GFLOP/s": work.flops / self.seconds / 1e9,
            "extra tensors": self.extra,
            "error": self.error,
        }

    def names(self) -> dict[str, str]:
        """The description of the measurement."""
        op, shape, variant, passes, dtype = self.case
        return {
            "op": op,
            "shape": "x".join(map(str, shape)),
            "variant": variant,
            "dtype": dtype,
            "passes": passes,
            "form": self.form,
        }


class Memory:
    """The peak of memory in use since construction, beyond the memory in use then."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        gc.collect()
        native.release()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        elif sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
            self.before = resident("VmRSS")

    def peak(self) -> float:
        if self.cuda:
            return torch.cuda.max_memory_allocated() - self.before
        return resident("VmHWM") - self.before if sys.platform == "linux" else float("nan")


def resident(field: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith(field)).split()[1]) * 1024


def clock(run: Callable[[], object], device: str) -> float:
    """Seconds of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def streams(args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """Functions that measure bandwidth: 12 bytes per element."""
    a, b, out = (torch.ones(STREAM, device=args.device) for _ in range(3))

    def alone() -> None:
        torch.set_num_threads(1)
        torch.add(a, b, out=out)
        torch.set_num_threads(args.threads)

    return {
        "one thread": alone,
        "all threads": lambda: torch.add(a, b, out=out),
        "fresh": lambda: torch.add(a, b),
    }


class Prepared(NamedTuple):
    """Forms by name: the functions to time, and their extra memory and errors."""

    runs: dict[str, Run]
    extra: dict[str, float]
    error: dict[str, float]


def prepare(case: Case, args: argparse.Namespace) -> Prepared:
    """Every form, compiled if needed and checked against ours; and its extra memory."""
    op = ops.get(case.op)
    runs: dict[str, Run] = {}
    extra: dict[str, float] = {}
    error: dict[str, float] = {}
    want: Tensor | None = None
    tolerance = op.tolerance if case.dtype == "float32" else NARROW_TOLERANCE
    for name, form in op.forms(case, args.device):
        if args.forms and name not in args.forms:
            continue
        runs[name] = run = bind(op, case, name, form, args.device)
        got = run()
        want = got if want is None else want
        if name not in op.apart:
            torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance, check_dtype=False)
        size = got.nbytes
        del got
        memory = Memory(args.device)
        run()
        extra[name] = memory.peak() / size
        found = errors(op, case, name, form, args.device)
        error[name] = found.result if case.passes == "forward" else max_or_nan(found)
    return Prepared(runs, extra, error)


def measure(case: Case, args: argparse.Namespace) -> list[Result]:
    runs, extra, error = prepare(case, args)
    turns: dict[str, Callable[[], object]] = {**args.streams, **runs}
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(args.repeats):
        for name, run in turns.items():
            if sum(seconds[name]) < args.budget:
                if seconds[name] and seconds[name][-1] < SHORT:
                    run()  # warm the caches, which other forms have filled
                seconds[name].append(clock(run, args.device))
    median = {name: statistics.median(s) for name, s in seconds.items()}
    one, all_, fresh = (12 * STREAM / median[name] for name in args.streams)
    bandwidth = max(one, all_)
    return [
        Result(case, form, median[form], bandwidth, fresh, extra[form], error[form])
        for form in runs
    ]


def report(results: list[Result], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [*results[0].names(), *results[0].figures(), "vs rlmem"]
    table = Table(*columns)
    ours = {r.case: r.seconds for r in results if r.form == "rlmem"}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "bandwidth GB/s", "into fresh memory"])
        for i, result in enumerate(results):
            ratio = result.seconds / ours[result.case] if result.case in ours else float("nan")
            names = result.names().values()
            figures = [*result.figures().values(), ratio]
            bandwidths = [result.bandwidth / 1e9, result.bandwidth_fresh / 1e9]
            writer.writerow([*names, *figures, *bandwidths])
            last = i + 1 == len(results) or results[i + 1].case != result.case
            table.add_row(*names, *map(to_text, figures), end_section=last)
    Console(width=170 if not sys.stdout.isatty() else None).print(table)


def to_text(x: float) -> str:
    """Two decimals; small numbers (errors) in scientific notation."""
    return f"{x:.2f}" if x == 0 or abs(x) >= 0.01 else f"{x:.0e}"


def cells(result: Result) -> dict[str, str]:
    """A row of the page's table."""
    return {**result.names(), **{name: to_text(x) for name, x in result.figures().items()}}


def cases(op: Op, args: argparse.Namespace) -> list[Case]:
    shapes = args.shapes or (op.quick if args.quick else op.shapes)
    small = [shape for shape in shapes if op.size(shape) <= args.max_elements]
    variants = [v for v in op.variants if not args.variants or v in args.variants]
    return [
        Case(op.name, shape, variant, passes, dtype)
        for variant, dtype, passes, shape in product(variants, args.dtypes, args.passes, small)
        if dtype in op.precisions(variant)
    ]


def to_shape(text: str) -> Shape:
    return tuple(map(int, text.split("x")))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("op", nargs="*", help=f"some of {', '.join(ops.names())}; all by default")
    parser.add_argument("--quick", action="store_true", help="few shapes instead of all")
    parser.add_argument("--shapes", nargs="+", metavar="BxTx...", type=to_shape)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--variants", nargs="+", help="all by default")
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=DTYPES)
    parser.add_argument("--passes", nargs="+", default=list(PASSES), choices=PASSES)
    parser.add_argument("--forms", nargs="+", help="all by default")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--budget", type=float, default=3.0, help="seconds per form and case")
    parser.add_argument("--max-elements", type=int, help="skip larger shapes")
    parser.add_argument("--csv", type=Path, default=Path("runs/bench_kernels.csv"))
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    args = parser.parse_args()
    args.op = args.op or ops.names()
    args.max_elements = args.max_elements or (2**24 if args.device == "cpu" else 2**28)
    axes = {ops.get(name).axes for name in args.op}
    if args.shapes and {len(shape) for shape in args.shapes} != {len(a.split("x")) for a in axes}:
        parser.error(f"--shapes must be {' or '.join(sorted(axes))}, the same for all operators")
    return args


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", module="torch")
    torch._dynamo.config.cache_size_limit = 256
    args.streams = streams(args)
    results: list[Result] = []
    for name in args.op:
        for case in cases(ops.get(name), args):
            print(*case, file=sys.stderr)
            results += measure(case, args)
    report(results, args.csv)
    reused = statistics.median(r.bandwidth for r in results) / 1e9
    fresh = statistics.median(r.bandwidth_fresh for r in results) / 1e9
    measured = ", ".join(f"`{name}`" for name in args.op)
    about = f"median bandwidth {reused:.1f} GB/s, {fresh:.1f} into fresh memory"
    about = f"{measured}, {args.threads} threads, {about}"
    publish(about, [cells(r) for r in results], args.page)


if __name__ == "__main__":
    main()
