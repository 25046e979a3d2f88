"""`rlmem bench`: trains and evaluates a grid of runs, and prints its results."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlmem.cli import plain
from rlmem.errors import UsageError, positive
from rlmem.files import expanded
from rlmem.runs import bench_results, grid, records
from rlmem.runs.bench import Bench
from rlmem.runs.grid import Cell
from rlmem.runs.workers import MANIFEST

# Rows of the live table: all that run, and the newest of the others.
SHOWN = 20


def run_bench(arguments: Sequence[str]) -> int:
    """Train what is missing, then print the results; 2 if a cell has failed."""
    given = [each for each in arguments if each != "--resume"]
    names, options, others = plain.parse("bench", given, others=True)
    cells = _cells(names, options, others)
    positive("jobs", options["jobs"])
    positive("legs", options["legs"])
    default = f"runs/bench-{Path(names[0]).stem}" if names else "runs/bench"
    root = expanded(options["dir"] or default)
    if len(given) < len(arguments) and not root.is_dir():
        raise UsageError(f"--resume: there is no folder {root} of a benchmark to go on with")
    bench = Bench(root, cells, options["legs"])
    if options["list"]:
        for cell in cells:
            print(f"{bench.state(cell):8} {cell.name}: rlmem train {' '.join(cell.overrides)}")
        return 0
    if any(bench.state(cell) == "waiting" for cell in cells):
        _check_options(cells)
    with _display(bench) as display:
        bench.run(options["jobs"], display.changed, display.tick)
    done = [cell.name for cell in cells if bench.state(cell) == "done"]
    rows = bench_results.collect(root, done, MANIFEST)
    if rows:
        print(_results(names, cells, rows, root))
    for name, reason in bench.failed.items():
        print(f"{name} failed: {reason}", file=sys.stderr)
    return 2 if bench.failed else 0


def _cells(names: Sequence[str], options: dict[str, Any], others: Sequence[str]) -> list[Cell]:
    """The cells of a benchmark, or of the grid that the options describe."""
    if len(names) > 1:
        raise UsageError(f"rlmem bench takes one benchmark, not {' and '.join(names)}")
    chosen = {
        key: ",".join(plain.as_list(options[f"{key}s"]))
        for key in ("core", "env", "algo")
        if options[f"{key}s"] is not None
    }
    changes = [*(f"{key}={value}" for key, value in chosen.items()), *others]
    lines: list[list[str]] = [[]]
    seeds = options["seeds"]
    if names:
        benchmark = grid.load(names[0])
        lines, seeds = benchmark.lines, seeds or benchmark.seeds
        own = options["seeds"] is None
        lines = [line if own else [o for o in line if not o.startswith("seed=")] for line in lines]
    elif not any(change.startswith(("env=", "core=")) for change in changes):
        raise UsageError("rlmem bench needs NAME, or cores=[...] envs=[...] (rlmem bench --help)")
    else:
        keys = {change.partition("=")[0] for change in changes}
        missing = {"env": "popgym-repeat", "core": "ffm"}
        changes = [*(f"{k}={v}" for k, v in missing.items() if k not in keys), *changes]
    seeded = f"seed={grid.seeds(seeds or '1')}"
    cells = grid.cells([seeded, *line, *changes] for line in lines)
    found = [cell for cell in cells if (options["only"] or "") in cell.name]
    if not found:
        raise UsageError(f"only={options['only']}: no cell has this text in its name")
    return found


def _check_options(cells: Sequence[Cell]) -> None:
    """Compose one configuration of each kind, so that a wrong name fails before a run begins."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from rlmem.cli.hydra_errors import compose, to_usage_error
    from rlmem.cli.overrides import check, readable

    groups = ("core", "env", "algo")
    kinds = {
        (tuple(cell.options), tuple(cell.options.get(group) for group in groups)): cell
        for cell in cells
    }
    for cell in kinds.values():
        check(cell.overrides)
        overrides = readable(cell.overrides)
        try:
            compose("train", overrides)
        except (HydraException, OmegaConfBaseException) as error:
            raise to_usage_error(error, "train", overrides) from error


def _results(
    names: Sequence[str], cells: Sequence[Cell], rows: Sequence[dict[str, Any]], root: Path
) -> str:
    """The comparison of all finished cells; for POPGym, its own table too."""
    from rlmem.cli.compare import comparison

    parts = []
    if names and Path(names[0]).stem == "popgym":
        planned = [bench_results.popgym_row_of(cell.options) for cell in cells]
        table = bench_results.popgym_table(rows, planned)
        (root / "popgym.md").write_text(table.markdown() + "\n", encoding="utf-8")
        parts.append(table.text())
    # Settings of a benchmark's cells differ by task: they are not what it compares.
    several = len({row["algo"] for row in rows}) > 1
    by = (["core", "algo"] if several else ["core"]) if names else []
    parts.append(comparison([str(root / row["cell"]) for row in rows], by, root))
    parts.append(f"results of every run: {root / bench_results.RESULTS}")
    return "\n\n".join(parts)


class Lines:
    """The progress as a line for each change, for logs."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        done = sum(bench.state(cell) == "done" for cell in bench.cells)
        print(f"{len(bench.cells)} cells in {bench.root}, {done} done", file=sys.stderr)

    def changed(self, cell: Cell, state: str) -> None:
        """Print the new state of a cell."""
        ready = sum(self.bench.state(each) in ("done", "failed") for each in self.bench.cells)
        detail = self.bench.failed.get(cell.name, "")
        if state == "done":
            run = records.read(self.bench.root / cell.name)
            detail = f"return {run.score:.3f} after {run.seconds:,.0f} s"
        text = f"[{ready}/{len(self.bench.cells)}] {cell.name} {state} {detail}".rstrip()
        print(text, file=sys.stderr, flush=True)

    def tick(self) -> None:
        """Nothing: a log has no live table."""


class Live:
    """The progress as a table on a terminal, with the newest numbers of the running cells."""

    def __init__(self, bench: Bench, live: Any) -> None:
        self.bench, self.live = bench, live
        self.order = {cell.name: 0.0 for cell in bench.cells}

    def changed(self, cell: Cell, state: str) -> None:
        """Move a cell to the front."""
        self.order[cell.name] = time.monotonic()
        self.tick()

    def tick(self) -> None:
        """Draw the table again."""
        self.live.update(self.table())

    def table(self) -> Any:
        """Running cells, then the cells that changed last; the title counts the states."""
        from rich.table import Table

        states = {cell.name: self.bench.state(cell) for cell in self.bench.cells}
        counts = {state: list(states.values()).count(state) for state in states.values()}
        title = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        table = Table("cell", "state", "steps", "return", "steps/s", title=title)
        ordered = sorted(states, key=lambda name: (states[name] != "running", -self.order[name]))
        for name in ordered[:SHOWN]:
            steps, value, speed = records.newest(self.bench.root / name / "metrics.csv")
            numbers = (f"{steps:,}", value, f"{speed:,.0f}") if steps else ("", "", "")
            table.add_row(name, states[name], *numbers)
        return table


@contextmanager
def _display(bench: Bench) -> Iterator[Lines | Live]:
    if not sys.stderr.isatty():
        yield Lines(bench)
        return
    from rich.console import Console
    from rich.live import Live as Screen

    with Screen(console=Console(stderr=True), refresh_per_second=2) as screen:
        yield Live(bench, screen)
