"""The systems of a run: an entry for each process, in the report and in the results of a bench."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import numpy as np
import pytest
import torch

import rlmem
from rlmem.cli.main import main
from rlmem.runs import bench_results, records, report, sealed, system
from tests.cli.common import SMALL
from tests.runs.report.pages import Page
from tests.runs.run_folders import write_run

TINY = [*SMALL, "num_envs=2", "eval_episodes=2"]


def another_process(monkeypatch: pytest.MonkeyPatch, time: str) -> None:
    monkeypatch.setattr(system, "_began", lambda: time)


def test_a_run_names_the_systems_that_have_trained_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    another_process(monkeypatch, "2026-01-01 00:00:00")
    run = tmp_path / "a"
    assert main(["train", *TINY, "total_steps=128", "legs=2", f"run_dir={run}"]) == 0
    (first,) = system.read(run)  # two legs, one process
    assert first == {
        "step": "0",
        "time": "2026-01-01 00:00:00",
        "rlmem": rlmem.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "cores": str(len(os.sched_getaffinity(0))),
        "threads": "1",
        "ranks": "1",
        **{key: first[key] for key in ("commit", "cpu") if key in first},
    }
    assert first["cpu"] in {*Path("/proc/cpuinfo").read_text().replace(": ", "\n").split("\n")}
    another_process(monkeypatch, "2026-01-02 00:00:00")
    monkeypatch.setattr(system, "__version__", "9.9")
    assert main(["train", f"resume={run}", "total_steps=256"]) == 0
    entries = system.read(run)
    assert [(each["step"], each["rlmem"]) for each in entries] == [
        ("0", rlmem.__version__),
        ("128", "9.9"),
    ]
    page = " ".join(Page(report.page([run])).words)
    assert page.count(first["cpu"]) == 2
    assert "9.9" in page
    row = bench_results.result(run, {"version": "0", "command": "rlmem train"})
    assert (row["version"], row["torch"], row["threads"]) == ("9.9", torch.__version__, "1")


def test_the_same_system_has_one_row_with_all_its_steps(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", [(64, 0.5, 3)], [0.5])
    entries = [{"step": str(64 * i), "time": str(i), "cpu": "<b>odd</b>"} for i in range(7)]
    (run / system.FILE).write_text(sealed.seal({"format": 1, "processes": entries}))
    text = report.page([run])
    assert text.count("&lt;b&gt;odd&lt;/b&gt;") == 1
    assert "0, 64, 128, 192, 256, ..." in text


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"format": 1, "processes": []}', sealed.seal({"format": 7, "processes": []})],
)
def test_a_damaged_file_is_named_and_begins_anew(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / system.FILE).write_text(content)
    system.note(tmp_path, 64, "cpu")
    assert f"cannot read {tmp_path / system.FILE}: " in capsys.readouterr().err
    assert [each["step"] for each in system.read(tmp_path)] == ["64"]


def test_long_files_keep_the_first_process_and_the_newest_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "KEPT", 4)
    for step in range(9):
        another_process(monkeypatch, str(step))
        system.note(tmp_path, step, "cpu")
    assert [each["step"] for each in system.read(tmp_path)] == ["0", "6", "7", "8"]


def test_older_runs_name_the_versions_of_their_other_files(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", [(64, 0.5, 3)], [0.5])
    assert records.systems(run) == [{}]
    (run / "agent.json").write_text('{"rlmem": "0.1.0"}')
    (run / "bench.json").write_text(json.dumps({"version": "0.1.0", "torch": "2.10"}))
    assert records.systems(run) == [{"rlmem": "0.1.0", "torch": "2.10"}]
