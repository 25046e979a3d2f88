"""Time, bandwidth and memory of the linear scan, against the other ways to compute it.

    python scripts/bench_kernels.py [--quick | --shapes 16x1024x256 ...] [--device cuda]

All forms of a case take turns, so that a disturbance of the machine meets them all; medians are
printed. GB/s counts each input read once and each output written once (3 tensors forward, 8 forward
and backward); the share is of the bandwidth that adding two large tensors into a third reaches in
the same turns, on one thread or on all, whichever is faster, the third one written before; into a
fresh one is printed for comparison. Extra memory is the peak beyond the inputs, in tensors of
value's size.
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
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import product
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch
from pages import publish
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rlmem.kernels import linear_scan, native
from rlmem.kernels.linear_scan import linear_scan_reference

TIMES, ROWS, CHANNELS = (128, 1024, 4096, 16384), (16, 64, 256), (64, 256)
QUICK = [(16, 128, 64), (16, 1024, 256), (16, 4096, 128), (16, 16384, 64)]
DTYPES = {"real": torch.float32, "complex": torch.complex64}
LONGEST_UNROLLED = 128  # steps of a loop that torch.compile is asked to unroll
TENSORS_MOVED = {"forward": 3, "both": 8}
FORMS = ["rlmem", "reference", "associative", "associative-compiled", "loop-compiled"]
THIRD_PARTIES = ["accelerated-scan", "fla-hgrn", "fla-hgrn-chunk"]

SHORT = 0.05  # seconds
STREAM = 2**25  # elements of each tensor that bandwidth is measured with

Scan = Callable[[Tensor, Tensor], Tensor]
Run = Callable[[], Tensor]


class Case(NamedTuple):
    rows: int
    time: int
    channels: int
    dtype: str
    passes: str


class Result(NamedTuple):
    case: Case
    form: str
    seconds: float
    bandwidth: float
    bandwidth_fresh: float
    extra: float

    def figures(self) -> dict[str, float]:
        """What is printed and written, from what was measured."""
        elements = self.case.rows * self.case.time * self.case.channels
        moved = elements * DTYPES[self.case.dtype].itemsize * TENSORS_MOVED[self.case.passes]
        rate = moved / self.seconds
        return {
            "ms": self.seconds * 1e3,
            "ns/element": self.seconds / elements * 1e9,
            "GB/s": rate / 1e9,
            "% of bandwidth": 100 * rate / self.bandwidth,
            "extra tensors": self.extra,
        }


def associative(gate: Tensor, value: Tensor) -> Tensor:
    """torch's own scan, with the operator of a linear recurrence."""
    from torch._higher_order_ops.associative_scan import associative_scan

    def combine(x: tuple[Tensor, ...], y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return x[0] * y[0], y[0] * x[1] + y[1]

    return associative_scan(combine, (gate, value), dim=1, combine_mode="generic")[1]


def forms(case: Case, chosen: list[str], device: str) -> dict[str, Scan]:
    """Every form that can compute this case here; the first is ours."""
    known: dict[str, Scan] = {
        "rlmem": linear_scan,
        "reference": linear_scan_reference,
        "associative": associative,
        "associative-compiled": torch.compile(associative, fullgraph=True, dynamic=False),
    }
    if case.time <= LONGEST_UNROLLED:
        known["loop-compiled"] = torch.compile(linear_scan_reference, dynamic=False)
    if device == "cuda" and case.dtype == "real":
        known |= dict(third_parties())
    return {name: scan for name, scan in known.items() if name in chosen}


def third_parties() -> Iterator[tuple[str, Scan]]:
    """What is installed; each gets its gates and layout as it likes them outside of the clock."""
    if find_spec("accelerated_scan"):
        from accelerated_scan.warp import scan  # type: ignore[import-not-found]

        yield "accelerated-scan", lambda gate, value: scan(gate.mT, value.mT).mT
    if find_spec("fla"):
        from fla.ops.hgrn import (  # type: ignore[import-not-found]
            chunk_hgrn,
            fused_recurrent_hgrn,
        )

        yield "fla-hgrn", lambda gate, value: fused_recurrent_hgrn(value, gate)[0]
        yield "fla-hgrn-chunk", lambda gate, value: chunk_hgrn(value, gate)[0]


def inputs(case: Case, form: str, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Gate, value and the gradient for h; the same numbers for every form."""
    shape, dtype = case[:3], DTYPES[case.dtype]
    torch.manual_seed(0)
    gate = torch.rand(shape, device=device).sqrt()
    if dtype.is_complex:
        gate = torch.polar(gate, torch.rand(shape, device=device))
    value, grad_h = (torch.randn(shape, dtype=dtype, device=device) for _ in range(2))
    if form.startswith("fla"):
        gate = gate.log()
    elif form == "accelerated-scan":
        gate, value, grad_h = (x.mT.contiguous().mT for x in (gate, value, grad_h))
    return gate, value, grad_h


def bind(case: Case, form: str, scan: Scan, device: str) -> Run:
    """One pass, or both, over inputs made beforehand; returns h."""
    gate, value, grad_h = inputs(case, form, device)
    if case.passes == "forward":
        return lambda: scan(gate, value)
    leaves = (gate.requires_grad_(), value.requires_grad_())

    def both() -> Tensor:
        h = scan(*leaves)
        torch.autograd.grad(h, leaves, grad_h)
        return h.detach()

    return both


class Memory:
    """The most that was held beyond what was held at the beginning."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        gc.collect()
        native.release()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        elif sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
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
    """What bandwidth is measured with: 12 bytes per element."""
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


def prepare(case: Case, args: argparse.Namespace) -> tuple[dict[str, Run], dict[str, float]]:
    """Every form, compiled where it has to be and found equal to ours; and its extra memory."""
    runs: dict[str, Run] = {}
    extra: dict[str, float] = {}
    want: Tensor | None = None
    for form, scan in forms(case, args.forms, args.device).items():
        runs[form] = run = bind(case, form, scan, args.device)
        got = run()
        want = got if want is None else want
        torch.testing.assert_close(got, want, rtol=1e-2, atol=1e-2)
        size = got.nbytes
        del got
        memory = Memory(args.device)
        run()
        extra[form] = memory.peak() / size
    return runs, extra


def measure(case: Case, args: argparse.Namespace) -> list[Result]:
    runs, extra = prepare(case, args)
    turns: dict[str, Callable[[], object]] = {**args.streams, **runs}
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(args.repeats):
        for name, run in turns.items():
            if sum(seconds[name]) < args.budget:
                if seconds[name] and seconds[name][-1] < SHORT:
                    run()  # not the caches that the others left
                seconds[name].append(clock(run, args.device))
    median = {name: statistics.median(s) for name, s in seconds.items()}
    one, all_, fresh = (12 * STREAM / median[name] for name in args.streams)
    bandwidth = max(one, all_)
    return [Result(case, form, median[form], bandwidth, fresh, extra[form]) for form in runs]


def report(results: list[Result], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = ["B", "T", "D", "dtype", "passes", "form", *results[0].figures(), "vs rlmem"]
    table = Table(*columns)
    ours = {r.case: r.seconds for r in results if r.form == "rlmem"}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "bandwidth GB/s", "into fresh memory"])
        for i, result in enumerate(results):
            ratio = result.seconds / ours[result.case] if result.case in ours else float("nan")
            names = [*map(str, result.case), result.form]
            figures = [*result.figures().values(), ratio]
            bandwidths = [result.bandwidth / 1e9, result.bandwidth_fresh / 1e9]
            writer.writerow([*names, *figures, *bandwidths])
            last = i + 1 == len(results) or results[i + 1].case != result.case
            table.add_row(*names, *(f"{x:.2f}" for x in figures), end_section=last)
    Console(width=150 if not sys.stdout.isatty() else None).print(table)


def cells(result: Result) -> dict[str, str]:
    """A row of the page."""
    case = result.case
    return {
        "shape": f"{case.rows}x{case.time}x{case.channels}",
        "dtype": case.dtype,
        "passes": case.passes,
        "form": result.form,
        **{name: f"{figure:.2f}" for name, figure in result.figures().items()},
    }


def cases(args: argparse.Namespace) -> list[Case]:
    every = [(b, t, d) for t, b, d in product(TIMES, ROWS, CHANNELS)]
    shapes = args.shapes or (QUICK if args.quick else every)
    small = [x for x in shapes if prod(x) <= args.max_elements]
    combined = product(args.dtypes, args.passes, small)
    return [Case(b, t, d, dtype, passes) for dtype, passes, (b, t, d) in combined]


def to_shape(text: str) -> tuple[int, int, int]:
    rows, time, channels = map(int, text.split("x"))
    return rows, time, channels


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="four shapes instead of all")
    parser.add_argument("--shapes", nargs="+", metavar="BxTxD", type=to_shape)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--passes", nargs="+", default=list(TENSORS_MOVED))
    parser.add_argument("--forms", nargs="+", default=FORMS + THIRD_PARTIES)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--budget", type=float, default=3.0, help="seconds per form and case")
    parser.add_argument("--max-elements", type=int, help="skip larger shapes")
    parser.add_argument("--csv", type=Path, default=Path("runs/bench_kernels.csv"))
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    args = parser.parse_args()
    args.max_elements = args.max_elements or (2**24 if args.device == "cpu" else 2**28)
    return args


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", module="torch")
    torch._dynamo.config.cache_size_limit = 256
    args.streams = streams(args)
    results: list[Result] = []
    for case in cases(args):
        print(*case, file=sys.stderr)
        results += measure(case, args)
    report(results, args.csv)
    reused = statistics.median(r.bandwidth for r in results) / 1e9
    fresh = statistics.median(r.bandwidth_fresh for r in results) / 1e9
    about = f"median bandwidth {reused:.1f} GB/s, {fresh:.1f} into fresh memory"
    publish(
        f"`linear_scan`, {args.threads} threads, {about}", [cells(r) for r in results], args.page
    )


if __name__ == "__main__":
    main()
