"""One operator on this device: times, memory and errors of each form, in a process of its own.

The forms of a case run in turns. `graph_ms` is the time per call in a replayed CUDA graph, without
the time to launch. Compiled forms take seconds to compile and have a group of their own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import ops
import torch
from gpu_check_worker import (
    BROKEN,
    Deadline,
    clock,
    emit,
    fail,
    free,
    healthy,
    parser,
    prepare,
    serve,
    synchronize,
)
from ops.base import Case, Errors, Form, Op, Run, bind, errors

COMPILED = ("associative-pointwise", "flex")
# Loops in Python: too slow for these sizes. The dry run includes them.
LOOPS = ("reference", "loop", "autograd")
NEVER = ("loop-compiled", "associative-compiled")  # minutes of compiling
PASSES = ("forward", "both")
ROUNDS, ROUND_SECONDS, MOST_CALLS = 7, 5e-3, 50
SLOW = 0.5  # seconds per call, above which a form is measured once
WAITS = ("packed", "chunks")  # forms that wait for the device: no graphs


def plan(op: Op, small: bool, compiled: bool) -> list[Case]:
    """The cases, most valuable first; `passes` is measured both ways in each."""
    shapes = [op.tiny] if small else list(op.gpu_shapes or op.quick)
    main, *others = op.variants
    dtypes = {variant: op.precisions(variant) for variant in op.variants}

    def case(shape: int, variant: str, dtype: str) -> Iterator[Case]:
        if shape < len(shapes) and dtype in dtypes[variant]:
            yield Case(op.name, shapes[shape], variant, "both", dtype)

    if compiled:
        # FlexAttention supports no scores by distance: the last variant of attention is without.
        wanted = [(0, op.variants[-1 if op.name == "window_attention" else 0], "float32")]
        wanted += [(1, wanted[0][1], "float32"), (0, wanted[0][1], "bfloat16")]
    else:
        wanted = [(0, main, "float32"), (0, main, "bfloat16"), (1, main, "float32")]
        wanted += [(0, other, "float32") for other in others]
        wanted += [(i, main, "float32") for i in range(2, len(shapes))]
        wanted += [(1, main, "bfloat16"), *((0, other, "bfloat16") for other in others)]
        wanted += [(1, other, "float32") for other in others]
    return [found for each in wanted for found in case(*each)]


def chosen(op: Op, case: Case, options: argparse.Namespace) -> Iterator[tuple[str, Form]]:
    """The forms to measure; an import that fails ends the list."""
    skipped = NEVER if options.small else (*NEVER, *LOOPS)
    forms = iter(op.forms(case, options.device))
    while True:
        try:
            name, form = next(forms)
        except StopIteration:
            return
        except Exception as error:
            fail(f"{title(case)}: a form of others", error, minor=True)
            return
        wanted = (name in COMPILED) == options.compiled and name not in skipped
        if wanted or name == "rlmem":
            yield name, form


class Measured(NamedTuple):
    """A form that runs: its function, its first duration, and the memory it takes."""

    run: Run
    seconds: float
    peak: float


def first_run(run: Run, device: str) -> Measured:
    """Call a function until it is compiled; then its duration and its memory."""
    emit("alive")
    for _ in range(2):
        run()
    synchronize(device)
    before = 0
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    seconds = clock(run, device)
    peak = torch.cuda.max_memory_allocated() - before if device == "cuda" else float("nan")
    return Measured(run, seconds, peak)


def in_turns(forms: dict[str, Measured], device: str) -> dict[str, float]:
    """Median seconds per call of each form."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(ROUNDS):
        for name, form in forms.items():
            if turn and form.seconds > SLOW:
                continue
            calls = max(1, min(MOST_CALLS, int(ROUND_SECONDS / max(form.seconds, 1e-9))))
            seconds[name].append(clock(form.run, device, calls))
    return {name: statistics.median(each) for name, each in seconds.items()}


def graph_seconds(run: Run) -> float:
    """Seconds per replay of a CUDA graph of `run`."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    replay: Callable[[], object] = graph.replay
    replay()
    first = clock(replay, "cuda")
    calls = max(1, min(MOST_CALLS, int(ROUND_SECONDS / max(first, 1e-9))))
    return statistics.median(clock(replay, "cuda", calls) for _ in range(3))


def tested(op: Op, case: Case, name: str, form: Form, device: str) -> Errors | None:
    """The errors of a form; None if it does not run."""
    emit("alive")
    try:
        found = errors(op, case, name, form, device)
    except Exception as error:
        fail(f"{title(case)} {name}: forward and backward", error, minor=name != "rlmem")
        if not healthy(device):
            raise
        return None
    finally:
        free(device)
    return found


def measure(case: Case, options: argparse.Namespace) -> list[tuple[Case, str, Run]]:
    """Emit a row for each form and pass of a case; returns what was run."""
    op, device = ops.get(case.op), options.device
    available = list(chosen(op, case, options))
    found: dict[str, Errors | None] = {}
    ran: list[tuple[Case, str, Run]] = []
    for passes in PASSES:
        case = case._replace(passes=passes)
        forms: dict[str, Measured] = {}
        for name, form in available:
            if passes == "forward":
                found[name] = tested(op, case, name, form, device)
            # The forward pass of our own form may work nevertheless.
            if found[name] is None and (passes == "both" or name != "rlmem"):
                continue
            try:
                forms[name] = first_run(bind(op, case, name, form, device), device)
            except Exception as error:
                fail(f"{title(case)} {name}: {passes}", error, minor=name != "rlmem")
                if not healthy(device):
                    raise
        for name, seconds in in_turns(forms, device).items():
            emit_row(case, name, seconds, forms[name].peak, found[name])
        ran += [(case, name, form.run) for name, form in forms.items()]
    return ran


def measure_graphs(ran: list[tuple[Case, str, Run]]) -> None:
    """The time of each function as a CUDA graph.

    A failed capture can disturb everything after it, so it ends the process: the parent starts
    another one for the remaining cases.
    """
    for case, name, run in ran:
        if name in WAITS:
            continue
        try:
            seconds = graph_seconds(run)
        except Exception as error:
            fail(f"CUDA graph of {title(case)} {name} {case.passes}", error, minor=True)
            os._exit(BROKEN)
        emit("update", **names(case), form=name, graph_ms=seconds * 1e3)


def names(case: Case) -> dict[str, str]:
    """The columns that identify a case."""
    return {**case._asdict(), "shape": "x".join(map(str, case.shape))}


def emit_row(case: Case, form: str, seconds: float, peak: float, found: Errors | None) -> None:
    work = ops.get(case.op).work(case)
    emit(
        "row",
        **names(case),
        form=form,
        ms=seconds * 1e3,
        bytes=work.bytes,
        flops=work.flops,
        peak_mb=peak / 2**20,
        error=found.result if found else float("nan"),
        grad_error=found.grad if found else float("nan"),
    )


def title(case: Case) -> str:
    """A case in words."""
    return f"{case.op} {case.variant} {case.dtype} {'x'.join(map(str, case.shape))}"


def main() -> None:
    made = parser((__doc__ or "").splitlines()[0])
    made.add_argument("op")
    made.add_argument("--compiled", action="store_true", help="the forms that take long to compile")
    options = made.parse_args()
    prepare(options.device)
    warnings.filterwarnings("ignore")
    torch._dynamo.config.cache_size_limit = 256
    op = ops.get(options.op)
    cases = plan(op, options.small, options.compiled)
    # A restarted child captures no graphs: one may have ended its predecessor.
    graphs = options.device == "cuda" and options.first == 0

    def run(case: Case, deadline: Deadline) -> None:
        ran = measure(case, options)
        if graphs:
            measure_graphs(ran)

    serve(cases, run, title, options)


if __name__ == "__main__":
    main()
