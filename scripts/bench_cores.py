"""Benchmarks cores against torch.nn.GRU and LSTM: step latency, scan time, time in linear_scan.

    python scripts/bench_cores.py [--width 256] [--rows 64] [--time 1024] [--repeats 5]
                                  [--cores ...] [--device cpu] [--page NAME]

`scan` is forward and backward over rows [rows, time, width] with a start about every 50 steps.
torch's own modules cannot reset within a row and run without resets. The loop over
torch.nn.GRUCell is the usual way to add resets. All contestants take turns; the table has medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from pages import publish
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from rlmem import cores

# These fit together into 24 GiB with the default shape.
CORES = [
    "none",
    "gru",
    "lstm",
    "slstm",
    "ffm",
    "s4d",
    "s5",
    "lru",
    "mingru",
    "minlstm",
    "s6",
    "mlstm",
]
STEP_BATCHES = (1, 64, 1024)
Run = Callable[[], object]


class Contestant:
    """A model to benchmark: `step(batch)` returns a step to run, `scan` is a training scan."""

    def __init__(self, name: str, step: Callable[[int], Run] | None, scan: Run) -> None:
        self.name = name
        self.step = step
        self.scan = scan


def rlmem_core(name: str, x: Tensor, start: Tensor) -> Contestant:
    width = x.shape[-1]
    core = cores.make(name, input_size=width, output_size=width).to(x.device)

    def step(batch: int) -> Run:
        x_t, start_t = x[:1, 0].repeat(batch, 1), start[:1, 1].repeat(batch)
        state = core.initial_state(batch)
        return lambda: core.step(x_t, state, start_t)

    def scan() -> None:
        y, _ = core.scan(x, core.initial_state(x.shape[0]), start)
        y.sum().backward()
        core.zero_grad()

    return Contestant(f"rlmem {name}", step, scan)


def torch_module(kind: type[nn.GRU] | type[nn.LSTM], x: Tensor) -> Contestant:
    width = x.shape[-1]
    rnn = kind(width, width, batch_first=True).to(x.device)

    def step(batch: int) -> Run:
        x_t = x[:1, :1].repeat(batch, 1, 1)
        return lambda: rnn(x_t)

    def scan() -> None:
        rnn(x)[0].sum().backward()
        rnn.zero_grad()

    return Contestant(f"torch.nn.{kind.__name__}, no resets", step, scan)


def cell_loop(x: Tensor, start: Tensor) -> Contestant:
    width = x.shape[-1]
    cell = nn.GRUCell(width, width).to(x.device)

    def scan() -> None:
        h, outputs = x.new_zeros(x.shape[0], width), []
        for x_t, start_t in zip(x.unbind(1), start.unbind(1), strict=True):
            h = cell(x_t, torch.where(start_t[:, None], 0.0, h))
            outputs.append(h)
        torch.stack(outputs, 1).sum().backward()
        cell.zero_grad()

    return Contestant("torch.nn.GRUCell loop, resets", None, scan)


def seconds(run: Run, device: torch.device, calls: int = 1) -> float:
    """Wall time of one call, in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(calls):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) / calls


def linear_scan_fraction(run: Run) -> float:
    """The fraction of the time spent in `linear_scan` and its backward."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    events = profiler.key_averages()
    total = sum(e.self_cpu_time_total for e in events)
    ops = ("rlmem::linear_scan", "rlmem::linear_scan_backward")
    return sum(e.cpu_time_total for e in events if e.key in ops) / total


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--time", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cores", nargs="+", default=CORES)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    args = parser.parse_args()
    torch.manual_seed(0)
    x = torch.randn(args.rows, args.time, args.width, device=args.device)
    start = torch.rand(args.rows, args.time, device=args.device) < 1 / 50
    contestants = [torch_module(nn.GRU, x), torch_module(nn.LSTM, x), cell_loop(x, start)]
    contestants += [rlmem_core(name, x, start) for name in args.cores]
    rows = [cells(c, *times) for c, times in measure(contestants, args)]
    baseline = float(rows[0]["scan ms"])
    for row in rows:
        row["x GRU"] = f"{baseline / float(row['scan ms']):.2f}"
    shape = [args.rows, args.time, args.width]
    threads = f"{torch.get_num_threads()} threads"
    about = f"forward + backward of {shape}, float32, {args.device}, {threads}"
    publish(f"{about}, median of {args.repeats}", rows, args.page)


def measure(
    contestants: list[Contestant], args: argparse.Namespace
) -> list[tuple[Contestant, tuple[dict[int, float], float, float]]]:
    """Median seconds of steps and of scans, in turns, and the fraction spent in `linear_scan`."""
    scans: dict[str, list[float]] = {c.name: [] for c in contestants}
    for round_ in range(args.repeats + 1):
        for c in contestants:
            taken = seconds(c.scan, args.device)
            # The first round warms up.
            if round_:
                scans[c.name].append(taken)
    results = []
    for c in contestants:
        steps = {}
        with torch.no_grad():
            for batch in STEP_BATCHES if c.step else ():
                run = c.step(batch)  # type: ignore[misc]
                seconds(run, args.device, 5)
                steps[batch] = statistics.median(seconds(run, args.device, 20) for _ in range(5))
        cpu = args.device.type == "cpu"
        fraction = linear_scan_fraction(c.scan) if cpu else float("nan")
        results.append((c, (steps, statistics.median(scans[c.name]), fraction)))
    return results


def cells(c: Contestant, steps: dict[int, float], scan: float, fraction: float) -> dict[str, str]:
    """A row of the table."""
    row = {"core": c.name}
    for batch in STEP_BATCHES:
        row[f"step us, B={batch}"] = f"{steps[batch] * 1e6:.0f}" if batch in steps else ""
    return row | {"scan ms": f"{scan * 1e3:.1f}", "linear_scan %": f"{100 * fraction:.0f}"}


if __name__ == "__main__":
    main()
