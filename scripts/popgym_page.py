"""Write the table of POPGym, docs/results/popgym.md, from one result file per finished cell.

    python scripts/popgym_page.py [DIR]

DIR is the folder of `rlmem bench popgym`: results of its finished cells are first copied to
docs/results/popgym/NAME.json. docs/popgym.md shows the table, and `tests/test_readme.py` compares.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from pages import RESULTS

from rlmem.runs import bench_results, grid
from rlmem.runs.scores import PUBLISHED
from rlmem.runs.workers import MANIFEST, is_done

FILES = RESULTS / "popgym"
PAGE = RESULTS.parent / "popgym.md"
# A claim needs as many seeds as the published scores have.
SEEDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="the folder of rlmem bench popgym")
    folder = parser.parse_args().folder
    if folder is not None:
        copy(folder)
    rows = [json.loads(path.read_text()) for path in sorted(FILES.glob("*.json"))]
    text = page(rows)
    (RESULTS / "popgym.md").write_text(text + "\n")
    before, rest = PAGE.read_text().split("<!-- results: popgym -->\n")
    after = rest[rest.index("<!-- end -->") :]
    PAGE.write_text(f"{before}<!-- results: popgym -->\n{text}\n{after}")
    print(text)


def copy(folder: Path) -> None:
    """Copy the results of the finished cells in a benchmark's folder."""
    for path in sorted(each.parent for each in folder.glob(f"*/{MANIFEST}")):
        if is_done(path):
            manifest = json.loads((path / MANIFEST).read_text())
            result = bench_results.result(path, manifest)
            (FILES / f"{path.name.removeprefix('popgym-')}.json").write_text(
                json.dumps(result, indent=1) + "\n"
            )


def page(rows: list[dict[str, Any]]) -> str:
    """The table, with missing cells, and the sums over it."""
    planned: dict[tuple[str, str], tuple[str, str, str]] = {}
    cells = [cell.options for cell in grid.cells(grid.load("popgym").lines)]
    for cell in cells:
        # The first line of a task has its own settings.
        row = bench_results.popgym_row_of(cell)
        planned.setdefault(row[:2], row)
    table = bench_results.popgym_table(rows, list(planned.values()))
    hours = sum(row["train_seconds"] for row in rows) / 3600
    total = (
        f"{len(rows)} of {len(cells)} runs of the benchmark are done: "
        f"{sum(row['steps'] for row in rows):,} steps in {hours:.1f} hours of one thread."
    )
    return "\n\n".join([table.markdown(), " ".join([*summary(rows), total])])


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """The number of published cells that the best core of each reaches, with three seeds."""
    groups: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = defaultdict(dict)
    for row in rows:
        name = bench_results.contestant(row["core"], row["algo"])
        groups[row["env"], row["difficulty"]].setdefault(name, []).append(row)
    lines = []
    greedy, mmer = "greedy_return", "mmer"
    measures = {"Greedy return": [greedy], "MMER": [mmer], "One of the two": [greedy, mmer]}
    for title, names in measures.items():
        reached = [0, 0]  # with three seeds, and with fewer
        for env, levels in PUBLISHED.items():
            for level, published in levels.items():
                least = published.best - bench_results.ROUNDING
                seeds = [
                    len(runs)
                    for runs in groups[env, level].values()
                    if max(sum(run[n] for run in runs) for n in names) / len(runs) >= least
                ]
                if seeds:
                    reached[max(seeds) < SEEDS] += 1
        lines.append(
            f"{title} at or above the best published memory: {reached[0]} of 24 cells with three "
            f"seeds, {reached[1]} more with fewer."
        )
    return lines


if __name__ == "__main__":
    main()
