"""Sweeps: jobs at once in other processes, errors of jobs, and sweeps that go on after a stop."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import pickle
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from rlmem.cli import sweep
from rlmem.cli.main import main
from rlmem.runs import checkpoint, folder, system
from rlmem.runs.stop import Interrupted
from tests.cli.common import SMALL, python

TINY = [*SMALL, "total_steps=128", "core=gru"]
JOBS = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def outcome(run: Path) -> tuple[list[dict[str, str]], Any]:
    """The metrics of a run without its times, and its evaluation."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    times = ("seconds", "steps_per_second")
    kept = [{key: row[key] for key in row if key not in times} for row in rows]
    return kept, json.loads((run / "eval.json").read_text())


def test_a_sweep_goes_on_and_ends_with_its_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"hydra.sweep.dir={tmp_path / 'a'}"
    assert main(["train", "-m", *TINY, place, "algo.gamma=0.9,2"]) == 2
    assert "rlmem: algo.gamma must be between 0 and 1, not 2.0" in capsys.readouterr().err
    first = tmp_path / "a" / "0-popgym-repeat-gru-ppo-seed0"
    before = outcome(first)
    # The same sweep: the first run is finished, the second one begins now.
    again = ["train", "-m", *TINY, place, "resume=auto"]
    assert main([*again, "algo.gamma=0.9,0.8"]) == 0
    printed = capsys.readouterr()
    assert "0-popgym-repeat-gru-ppo-seed0 is finished: it has trained 128 steps" in printed.err
    assert "algo.gamma=0.8" in printed.out
    assert "algo.gamma=0.9" in printed.out
    assert f"written to {os.path.relpath(tmp_path / 'a')}/compare.md" in printed.out
    assert outcome(first) == before
    # Another sweep has other options under the same numbers.
    assert main([*again, "algo.gamma=0.8"]) == 2
    wanted = "is a run with other options (algo.gamma is 0.8, and was 0.9): give another hydra.sw"
    assert wanted in capsys.readouterr().err
    assert not (tmp_path / "a" / sweep.OUTCOMES).exists()


def test_a_missing_launcher_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    missing = "hydra_plugins"
    monkeypatch.setattr(
        "rlmem.errors.find_spec", lambda name: None if name.startswith(missing) else found(name)
    )
    assert main(["train", "-m", *TINY, "seed=0,1", "hydra/launcher=joblib"]) == 2
    wanted = "hydra/launcher=joblib needs hydra-joblib-launcher: pip install 'rlmem[sweep]'"
    assert wanted in capsys.readouterr().err
    assert not Path("multirun").exists()


def test_the_command_that_goes_on_names_the_folder() -> None:
    words = ["-m", "core=gru,ffm", "env.kwargs={a: 1}", "hydra.sweep.dir=x", "resume=auto"]
    again = sweep.Sweep(Path("runs/my sweep"), "joblib").again("train", words)
    assert shlex.split(again) == [
        "rlmem", "train", "-m", "core=gru,ffm", "env.kwargs={a: 1}",
        "hydra.sweep.dir=runs/my sweep", "resume=auto",
    ]  # fmt: skip


def test_an_interruption_passes_between_processes() -> None:
    error = Interrupted(signal.SIGTERM)
    error.args = ("saved x",)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.args, copy.exit_code) == (("saved x",), 143)


def begins(job: Path, steps: int) -> None:
    """Wait for a checkpoint of a run after `steps`."""
    end = time.monotonic() + 120
    while not any(step >= steps for step in checkpoint.steps(job)):
        assert time.monotonic() < end
        time.sleep(0.02)


def is_free(run: Path) -> bool:
    """Whether no process trains the run."""
    try:
        with folder.lock(run):
            return True
    except Exception:
        return False


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("joblib") is None, reason="needs hydra-joblib-launcher"
)
def test_a_killed_parallel_sweep_goes_on_where_it_stopped(tmp_path: Path) -> None:
    sizes = [*SMALL, "total_steps=6400", "core=gru,none", "seed=0,1"]
    names = [
        f"{2 * i + seed}-popgym-repeat-{core}-ppo-seed{seed}"
        for i, core in enumerate(("gru", "none"))
        for seed in (0, 1)
    ]
    place = tmp_path / "a"
    command = ["-m", "rlmem", "train", "-m", *sizes, *JOBS, f"hydra.sweep.dir={place}"]
    killed = python(*command, new=True)
    begins(place / names[0], 640)
    killed.kill()
    killed.communicate()
    # The processes of the jobs end with it.
    end = time.monotonic() + 20
    begun = [place / name for name in names if (place / name / "config.yaml").exists()]
    while not all(map(is_free, begun)):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert 1 <= len(begun) <= 3
    assert not (begun[0] / "eval.json").exists()
    gone_on = python(*command, "resume=auto", new=True)
    out, err = gone_on.communicate(timeout=500)
    assert gone_on.returncode == 0, err
    assert f"{os.path.relpath(begun[0])} goes on at step" in err or "starts over" in err
    assert len([line for line in out.splitlines() if line.startswith("popgym-repeat/easy")]) >= 2
    # Two jobs had two processes, with one thread each.
    assert {each["threads"] for name in names for each in system.read(place / name)} == {"1"}
    # One after the other, without a stop: the same results.
    serial = ["train", "-m", *sizes, "log.progress=false", f"hydra.sweep.dir={tmp_path / 'b'}"]
    assert main(serial) == 0
    for name in names:
        assert outcome(place / name) == outcome(tmp_path / "b" / name), name


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="needs hydra-submitit-launcher"
)
def test_jobs_of_submitit_report_their_errors(tmp_path: Path) -> None:
    place = tmp_path / "a"
    options = [*TINY, "algo.gamma=0.9,2,0.8", f"hydra.sweep.dir={place}"]
    options += ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"]
    done = python("-m", "rlmem", "train", "-m", *options, new=True)
    out, err = done.communicate(timeout=500)
    assert done.returncode == 2, err
    name = "1-popgym-repeat-gru-ppo-seed0"
    assert f"rlmem: {name}: algo.gamma must be between 0 and 1, not 2.0" in err
    assert "algo.gamma=0.9" in out
    assert "algo.gamma=0.8" in out
    assert {run.name for run in place.glob("*-seed0") if (run / "eval.json").exists()} == {
        "0-popgym-repeat-gru-ppo-seed0",
        "2-popgym-repeat-gru-ppo-seed0",
    }
