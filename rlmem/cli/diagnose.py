"""`rlmem diagnose`: asks memory cores the questions of the suite, and prints scores and costs.

With `run=` it diagnoses a trained agent instead (`rlmem.cli.diagnose_run`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlmem.cli import diagnose_run, plain
from rlmem.diagnose import report, suite
from rlmem.errors import UsageError, positive
from rlmem.files import atomic_write, expanded
from rlmem.runs import grid
from rlmem.runs.folder import require_usable
from rlmem.runs.table import Table


def run_diagnose(arguments: Sequence[str]) -> int:
    """Answer what is missing in the folder, then print and write all results."""
    names, options, others = plain.parse("diagnose", arguments, others=True)
    if names:
        raise UsageError(f"rlmem diagnose takes core=NAME or run=DIR, not {' '.join(names)}")
    if options["run"] is not None:
        return diagnose_run.run_trained(options, others)
    diagnose_run.require_none(options, others)
    questions = suite.chosen(plain.as_list(options["questions"]))
    if options["list"]:
        print(_listed(questions).text())
        return 0
    chosen = plain.as_list(options["core"]) or suite.all_cores()
    seeds = [int(seed) for seed in grid.seeds(options["seeds"] or "1").split(",")]
    effort = options["effort"]
    if not effort > 0:
        raise UsageError(f"effort must be positive, not {effort}")
    width, jobs = positive("width", options["width"]), positive("jobs", options["jobs"])
    root = require_usable("dir", expanded(options["dir"] or "runs/diagnose"))
    tasks = suite.tasks(chosen, questions, seeds, width, effort)
    results = suite.run(tasks, root, jobs, _progress())
    print(written(results, root))
    return 0


def written(results: report.Results, root: Path) -> str:
    """All tables as text; writes `diagnose.md` and `diagnose.png` into `root`."""
    tables = [
        ("Scores: 0 is chance, 1 the optimum", report.score_table(results)),
        ("Accuracy in percent", report.accuracy_table(results)),
        ("Influence of an input after k steps, |dy[k]/dx[0]|", report.influence_table(results)),
        ("Costs at equal parameters, one thread", report.cost_table(results)),
    ]
    shown = [(title, table) for title, table in tables if table is not None and table.rows]
    text = "\n\n".join(f"{title}\n\n{table.text()}" for title, table in shown)
    page = "\n\n".join(f"## {title}\n\n{table.markdown()}" for title, table in shown)
    atomic_write(root / "diagnose.md", page + "\n")
    files = [root / "diagnose.md"]
    if any(each["question"] != suite.COST for each in results):
        files.append(report.heat_map(results, root / "diagnose.png"))
    return f"{text}\n\nwritten to {', '.join(map(str, files))}"


def _progress() -> Any:
    begun = time.monotonic()

    def show(task: suite.Task, result: Mapping[str, Any], left: int) -> None:
        score = f"score {result['score']:.2f}" if "score" in result else "measured"
        passed = time.monotonic() - begun
        name = f"{task.core} {task.question} seed {task.seed}"
        print(f"[{passed:5.0f} s, {left} left] {name}: {score}", file=sys.stderr, flush=True)

    return show


def _listed(questions: Sequence[str]) -> Table:
    rows = [
        [each.name, each.about, f"{each.chance:.2f}", f"{each.optimum:.2f}", ", ".join(each.tests)]
        for each in (suite.QUESTIONS[name] for name in questions if name != suite.COST)
    ]
    return Table(["question", "about", "chance", "optimum", "conditions"], rows)
