"""Benchmarks: legs of a run, states of cells, results equal after `kill -9`."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlmem.cli.main import main
from rlmem.errors import UsageError
from rlmem.runs import bench_results, checkpoint, workers
from rlmem.runs.bench import Bench
from rlmem.runs.grid import Cell, cells
from rlmem.runs.log import RunLogger
from rlmem.runs.resume import leg_end
from tests.cli.common import ROOT, SMALL
from tests.runs.run_folders import write_run

TINY = [*SMALL, "num_envs=2", "eval_episodes=4"]


def outcome(path: Path) -> tuple[list[dict[str, str]], Any]:
    """The metrics of a run without its times, and its evaluation."""
    with (path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    times = ("seconds", "steps_per_second")
    kept = [{key: row[key] for key in row if key not in times} for row in rows]
    return kept, json.loads((path / "eval.json").read_text())


def test_legs_end_at_equal_parts_of_a_run() -> None:
    ends, step = [], 0
    while step < 1000:
        step = leg_end(step, 1000, 3)
        ends.append(step)
    assert ends == [334, 667, 1000]
    # Iterations are whole: a leg that ends late does not make the next one longer.
    assert leg_end(400, 1000, 3) == 667
    assert leg_end(0, 10, 1) == 10


class Killed(BaseException):
    """Ends a run as `kill -9` does: nothing is saved."""


def test_a_killed_leg_is_repeated_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [*TINY, "total_steps=512", "checkpoint_every=null", "legs=4"]
    assert main(["train", *options, f"run_dir={tmp_path / 'a'}"]) == 0
    logged = RunLogger.log

    def killed_at(step: int, *arguments: str) -> None:
        def log(self: RunLogger, at: int, values: Any) -> None:
            if at == step:
                raise Killed
            logged(self, at, values)

        with monkeypatch.context() as patch:
            patch.setattr(RunLogger, "log", log)
            with pytest.raises(Killed):
                main(["train", *arguments])
        assert checkpoint.steps(tmp_path / "b")[-1] == step - 64

    killed_at(192, *options, f"run_dir={tmp_path / 'b'}")
    killed_at(448, f"resume={tmp_path / 'b'}")
    assert main(["train", f"resume={tmp_path / 'b'}"]) == 0
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")
    # One leg is another run: its episodes go on.
    assert main(["train", *options[:-1], f"run_dir={tmp_path / 'c'}"]) == 0
    assert outcome(tmp_path / "a") != outcome(tmp_path / "c")


def one(root: Path, *overrides: str, name: str = "a") -> tuple[Bench, Cell]:
    cell = Cell(name, overrides)
    return Bench(root, [cell], 1), cell


def test_the_state_of_a_cell_is_in_its_files(tmp_path: Path) -> None:
    found, cell = one(tmp_path)
    assert found.state(cell) == "waiting"
    path = write_run(tmp_path / "a", [(1000, 0.5, 3)])
    assert found.state(cell) == "started"
    (path / "checkpoints" / "step-000001000.partial").mkdir(parents=True)
    assert workers.last_step(path) is None
    (path / "checkpoints" / "step-000000500").mkdir()
    (path / "checkpoints" / "step-000001000").mkdir()
    assert workers.last_step(path) == 1000
    assert found.state(cell) == "started"
    (path / "eval.json").write_text(json.dumps({"step": 500}))
    assert found.state(cell) == "started", "the evaluation is of an earlier step"
    (path / "eval.json").write_text(json.dumps({"step": 1000}))
    assert found.state(cell) == "done"


def test_a_cell_goes_on_from_its_files(tmp_path: Path) -> None:
    found, cell = one(tmp_path, "core=gru")
    path = write_run(tmp_path / "a", [(1000, 0.5, 3)])
    begin = found.workers._command(cell, path)
    assert begin[:2] == ["train", "legs=1"]
    assert list(path.iterdir()) == [], "a run without a checkpoint begins again"
    write_run(tmp_path / "b", [(1000, 0.5, 3)])
    path = tmp_path / "b"
    (path / "checkpoints" / "step-000000500").mkdir(parents=True)
    assert found.workers._command(cell, path) == ["train", f"resume={path}"]
    (path / "checkpoints" / "step-000001000").mkdir()
    assert found.workers._command(cell, path) == ["eval", f"run={path}", "episodes=2"]


def test_a_folder_of_other_options_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    options = {"options": ["core=gru", "total_steps=5"]}
    (tmp_path / "a" / workers.MANIFEST).write_text(json.dumps(options))
    one(tmp_path, "total_steps=5", "core=gru")
    with pytest.raises(UsageError, match=r"has other options .total_steps=5 instead of total_st"):
        one(tmp_path, "core=gru", "total_steps=6")


@pytest.mark.slow
def test_a_failing_cell_does_not_stop_the_others(tmp_path: Path) -> None:
    line = [*TINY, "env=copy", "core=gru", "algo.gamma=2,0"]
    found = Bench(tmp_path, cells([line]), 1)
    seen: list[tuple[str, str]] = []
    found.run(2, lambda cell, state: seen.append((cell.name, state)), lambda: None)
    bad, good = (cell.name for cell in found.cells)
    assert found.failed[bad].endswith("gamma must be between 0 and 1, not 2.0")
    assert sorted(seen[2:]) == [(good, "done"), (bad, "failed")]
    manifest = json.loads((tmp_path / good / workers.MANIFEST).read_text())
    assert manifest["command"].startswith("rlmem train legs=1 checkpoint_every=null threads=1")
    assert manifest["version"]
    (row,) = bench_results.collect(tmp_path, [good], workers.MANIFEST)
    with (tmp_path / "results.csv").open(newline="") as file:
        (saved,) = csv.DictReader(file)
    assert saved["cell"] == good
    assert float(saved["greedy_return"]) == row["greedy_return"]


def popgym_row(core: str, seed: int, score: float, algo: str = "ppo") -> dict[str, Any]:
    return {
        "env": "popgym-autoencode", "difficulty": "easy", "core": core, "seed": seed, "algo": algo,
        "steps": 5000, "mmer": score, "greedy_return": score - 0.1, "greedy_iqm": score,
        "memory_score": 0.5,
    }  # fmt: skip


def test_popgyms_table_has_published_scores_and_missing_cells() -> None:
    rows = [popgym_row("gru", seed, -0.25 + seed / 10) for seed in (0, 1)]
    rows.append(popgym_row("ffm", 0, -0.283))
    rows.append(popgym_row("ffm", 0, 0.5, "pqn"))
    planned = [("popgym-autoencode", "hard", "gru"), ("popgym-autoencode", "easy", "gru")]
    table = bench_results.popgym_table(rows, planned)
    ffm, by_pqn, gru, missing = table.rows
    assert by_pqn[2:5] == ["ffm (pqn)", "1", "**0.500**"]
    assert ffm[:6] == ["autoencode", "easy", "ffm", "1", "**-0.283**", "-0.383"]
    # Student's t with one degree of freedom: 12.706 standard errors of 0.05.
    assert gru[3:6] == ["2", "**-0.200 ± 0.635**", "-0.300 ± 0.635"]
    assert gru[-3:] == ["-0.283", "-0.283 GRU", "1.000"]
    assert missing[:4] == ["autoencode", "hard", "gru", "missing"]
    assert missing[-3:] == ["-0.456", "-0.448 IndRNN", "1.000"]


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    grid = ["cores=[gru,ffm]", "envs=[copy,popgym-repeat]", "total_steps=2048", "jobs=2"]
    return [sys.executable, "-m", "rlmem", "bench", *TINY, *grid, "legs=16"]


def started(arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        arguments, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def trained(root: Path) -> Iterator[tuple[str, int]]:
    for path in sorted(root.glob("*/config.yaml")):
        yield path.parent.name, workers.last_step(path.parent) or 0


@pytest.mark.slow
def test_kill_9_three_times_changes_no_result(tmp_path: Path, command: list[str]) -> None:
    for _ in range(3):
        before = dict(trained(tmp_path / "b"))
        process = started([*command, f"dir={tmp_path / 'b'}"])
        # Kill it in the middle of a cell: some checkpoint is new, and the cell is not done.
        end = time.monotonic() + 120
        while dict(trained(tmp_path / "b")) in (before, dict.fromkeys(before, 0)):
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < end
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert started([*command, f"dir={tmp_path / 'b'}"]).wait() == 0
    names = [path.parent.name for path in sorted((tmp_path / "b").glob("*/eval.json"))]
    assert len(names) == 4
    for name in names:
        options = json.loads((tmp_path / "b" / name / workers.MANIFEST).read_text())["options"]
        legs = ["legs=16", "checkpoint_every=null", f"run_dir={tmp_path / name}"]
        assert main(["train", *options, *legs]) == 0
        assert outcome(tmp_path / name) == outcome(tmp_path / "b" / name), name
