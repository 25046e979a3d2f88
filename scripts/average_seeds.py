"""One line per core: the mean over seeds of tables that `reproduce.py` wrote.

    python scripts/average_seeds.py NAME ... [--page PAGE]

reads docs/results/NAME.md and prints a table; `--page` also writes it to docs/results/PAGE.md. The
tables must be of one environment and one machine. Nothing is measured again.
"""

from __future__ import annotations

import argparse
from statistics import mean

from pages import RESULTS, write


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME", help="docs/results/NAME.md")
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    args = parser.parse_args()
    heads, rows = zip(*map(read, args.names), strict=True)
    if len(set(heads)) > 1:
        raise SystemExit(f"tables of different machines or commands: {set(heads)}")
    write(
        f"means over seeds of {heads[0]}",
        average([row for page in rows for row in page]),
        args.page,
    )


def read(name: str) -> tuple[str, list[dict[str, str]]]:
    """The head and the rows of docs/results/`name`.md."""
    head, _, keys, _, *rows = (RESULTS / f"{name}.md").read_text().splitlines()
    return head, [dict(zip(_cells(keys), _cells(row), strict=True)) for row in rows]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def average(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """One row per core, in the order of their first rows."""
    if len({(row["env"], row["steps"]) for row in rows}) > 1:
        raise SystemExit("tables of different environments or lengths")
    return [_mean(core, rows) for core in dict.fromkeys(row["core"] for row in rows)]


def _mean(core: str, rows: list[dict[str, str]]) -> dict[str, str]:
    values = {
        key: [
            float(row[key].removesuffix(" s").replace(",", ""))
            for row in rows
            if row["core"] == core
        ]
        for key in ("greedy return", "worst of 100", "memory score", "wall time", "steps/s")
    }
    return {
        "core": core,
        "seeds": str(len(values["greedy return"])),
        "greedy return": f"{mean(values['greedy return']):.3f}",
        "worst episode": f"{min(values['worst of 100']):.3f}",
        # Adding 0 removes the sign of -0.
        "memory score": f"{round(mean(values['memory score']), 2) + 0:.2f}",
        "wall time": f"{mean(values['wall time']):.0f} s",
        "steps/s": f"{mean(values['steps/s']):,.0f}",
    }


if __name__ == "__main__":
    main()
