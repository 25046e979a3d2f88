"""Compare memories: training speed and adaptation.

    python scripts/adaptation.py --page NAME [--splits train,heldout] [--trials 200]
                                 [--runs DIR] key=value ...

Runs `rlmem train -m key=value ...` (or takes the runs in DIR), then evaluates each split with
`rlmem eval split=...`, which includes reference players. The table has the returns of the first and
of the last episode of a trial. The report and the plot of each run and split stay in its folder.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from pages import publish
from program import rlmem


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--splits", type=lambda given: given.split(","), default="train,heldout")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--runs", type=Path, help="folder of the runs; default multirun/PAGE")
    parser.add_argument("--page", required=True, help="write docs/results/PAGE.md")
    args, overrides = parser.parse_known_args()
    runs = args.runs or Path("multirun", args.page)
    if not runs.exists():
        rlmem("train", "-m", f"hydra.sweep.dir={runs}", *overrides)
    folders = sorted(path.parent for path in runs.glob("*/eval.json"))
    rows = [row(folder, args.splits, args.trials) for folder in folders]
    rows += references(folders[0], args.splits, list(rows[0]))
    command = " ".join(["rlmem train -m", *overrides])
    about = f"`{command}`, then `rlmem eval run=RUN split=SPLIT trials={args.trials}`"
    publish(
        f"{about}: returns of the first and of the last episode of a trial with the interval of "
        "the last, and of the trial",
        rows,
        args.page,
    )
    if kinds := by_kind(folders, args.splits):
        publish(f"{about}: return of a trial by the kind of its task", kinds, f"{args.page}-kinds")


def row(folder: Path, splits: list[str], trials: int) -> dict[str, str]:
    """The row of a run: its memory, its speed, and its adaptation on each split."""
    with (folder / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    speed = float(last["step"]) / float(last["seconds"])
    cells = {"memory": core(folder), "steps": f"{int(last['step']):,}", "steps/s": f"{speed:,.0f}"}
    for split in splits:
        rlmem("eval", f"run={folder}", f"split={split}", f"trials={trials}")
        cells[split] = adaptation(report(folder, split)["scores"]["agent"])
    return cells


def references(folder: Path, splits: list[str], columns: list[str]) -> list[dict[str, str]]:
    """Rows of the reference players on the same tasks."""
    reports = {split: report(folder, split)["scores"] for split in splits}
    names = [name for name in reports[splits[0]] if name != "agent"]
    return [
        dict.fromkeys(columns, "")
        | {"memory": f"({name})"}
        | {split: adaptation(scores[name]) for split, scores in reports.items()}
        for name in names
    ]


def by_kind(folders: list[Path], splits: list[str]) -> list[dict[str, str]]:
    """A row for each kind of task, if there are several, with a column for each player."""
    rows = []
    for split in splits:
        reports = [report(folder, split)["kinds"] for folder in folders]
        for kind, entry in reports[0].items():
            players = {
                core(f): each[kind]["agent"] for f, each in zip(folders, reports, strict=True)
            }
            players |= {f"({p})": v for p, v in entry.items() if p not in ("trials", "agent")}
            cells = {name: "{:.2f} [{:.2f}, {:.2f}]".format(*v) for name, v in players.items()}
            rows.append({"split": split, "task": f"{kind} ({entry['trials']})"} | cells)
    return rows


def core(folder: Path) -> str:
    """The memory of a run."""
    from rlmem.runs.build import load_config

    return str(load_config(folder).core.name)


def report(folder: Path, split: str) -> dict[str, Any]:
    """The report of `rlmem eval`."""
    return dict(json.loads((folder / f"eval-{split}.json").read_text()))


def adaptation(entry: dict[str, Any]) -> str:
    """The returns of the first and the last episode, and of the whole trial."""
    first = entry["first_episode"][0]
    last, low, high = entry["last_episode"]
    return f"{first:.2f} → {last:.2f} [{low:.2f}, {high:.2f}], {entry['mean'][0]:.2f}"


if __name__ == "__main__":
    main()
