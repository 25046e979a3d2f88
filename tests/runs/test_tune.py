"""The search for options: ranges, pruning, seeds, and a search that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlmem.cli.main import main
from rlmem.cli.tune import search_space
from rlmem.errors import UsageError
from rlmem.runs import tune
from rlmem.runs.grid import Cell
from tests.cli.common import ROOT, SMALL
from tests.runs.run_folders import write_run

pytest.importorskip("optuna")
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

TOTAL = 20_000


class Pretend:
    """Runs in an instant: the return is high near `algo.gamma=0.7`; a negative one fails.

    A run is first seen with half of its training, then at its end.
    """

    def __init__(self, root: Path, fixed: Sequence[str]) -> None:
        self.root = root
        self.jobs: dict[str, Cell] = {}
        self.failed: dict[str, str] = {}
        self.half: set[str] = set()

    @contextmanager
    def claimed(self) -> Iterator[None]:
        yield

    def start(self, cell: Cell) -> None:
        self.jobs[cell.name] = cell
        value = self.value(cell)
        curve = [(step, value, 4) for step in range(500, TOTAL + 1, 500)]
        if not (self.root / cell.name).exists():
            write_run(self.root / cell.name, curve, [value])

    def value(self, cell: Cell) -> float:
        gamma = float(cell.options.get("algo.gamma", 0.7))
        return 1 - abs(gamma - 0.7) + int(cell.options["seed"]) / 10

    def ended(self) -> list[tuple[Cell, str]]:
        over = [cell for name, cell in self.jobs.items() if name in self.half]
        self.half |= set(self.jobs)
        for cell in over:
            del self.jobs[cell.name]
            if float(cell.options.get("algo.gamma", 0)) < 0:
                self.failed[cell.name] = "gamma must be between 0 and 1"
        return [(cell, "failed" if cell.name in self.failed else "done") for cell in over]

    def kill(self, names: Sequence[str]) -> None:
        for name in names:
            del self.jobs[name]


@pytest.fixture(autouse=True)
def pretend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr(tune, "Workers", Pretend)
        monkeypatch.setattr(tune, "POLL", 0)


def search(root: Path, trials: int, low: float = 0.0, **options: Any) -> tune.Tuning:
    space = {"algo.gamma": FloatDistribution(low, 1.0)}
    found = tune.Tuning(root, ["env=copy", "core=gru"], space, **options)
    found.run(trials, 2, lambda trial, state: None)
    return found


def test_it_finds_the_best_value(tmp_path: Path) -> None:
    found = search(tmp_path, 12)
    best = found.finished()[0]
    assert best.value == pytest.approx(1 - abs(best.options["algo.gamma"] - 0.7))
    assert best.value > 0.95
    # Trials below the median of the first five are stopped, the others are not.
    counts = found.counts()
    assert counts["pruned"] > 1
    assert counts["complete"] + counts["pruned"] == 12
    assert search(tmp_path / "all", 7, prune=False).counts() == {"complete": 7}


def test_a_value_is_the_mean_over_seeds(tmp_path: Path) -> None:
    trial = search(tmp_path, 1, seeds=(0, 1, 2)).finished()[0]
    assert trial.value == pytest.approx(1.1 - abs(trial.options["algo.gamma"] - 0.7))
    assert len(list(tmp_path.glob("trial0000-seed*"))) == 3


def test_failed_trials_do_not_stop_the_search(tmp_path: Path) -> None:
    found = search(tmp_path, 8, low=-1.0, prune=False)
    counts = found.counts()
    assert counts["fail"] == len(found.failed) > 0
    assert counts["complete"] + counts["fail"] == 8


def test_the_search_goes_on(tmp_path: Path) -> None:
    search(tmp_path, 3)
    again = search(tmp_path, 5)
    assert sum(again.counts().values()) == 5
    # A trial that was interrupted is finished, with its options and its number.
    handle = again.study.ask(fixed_distributions=again.space)
    last = search(tmp_path, 6)
    (trial,) = [each for each in last.finished() if each.number == handle.number]
    assert trial.options == handle.params
    with pytest.raises(UsageError, match="a search with other seeds"):
        search(tmp_path, 6, seeds=(0, 1))
    with pytest.raises(UsageError, match="a search with other space"):
        search(tmp_path, 6, low=0.5)


def test_ranges_are_those_of_hydra() -> None:
    fixed, space = search_space(
        ["algo.gamma=interval(0.5,1)", "algo.learning_rate=tag(log,interval(1e-4,1e-2))",
         "algo.num_epochs=int(interval(1,4))", "layers=range(1,4)", "core=gru,s5",
         "algo.target_kl=null,0.02", "env=copy"]
    )  # fmt: skip
    assert fixed == ["env=copy", "algo=ppo"]
    assert space == {
        "algo.gamma": FloatDistribution(0.5, 1.0),
        "algo.learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "algo.num_epochs": IntDistribution(1, 4),
        "layers": IntDistribution(1, 3),
        "core": CategoricalDistribution(["gru", "s5"]),
        "algo.target_kl": CategoricalDistribution([None, 0.02]),
    }
    fixed, space = search_space(["algo=sac", "algo.gamma=0.9"])
    assert "algo.gamma=0.9" in fixed
    assert "algo.gamma" not in space
    assert "algo.tau" in space


@pytest.mark.parametrize("algo", ["ppo", "pqn", "sac", "r2d2", "amago"])
def test_the_options_of_each_search_space_exist(algo: str, tmp_path: Path) -> None:
    root = tmp_path / algo
    assert main(["tune", f"algo={algo}", "trials=1", f"dir={root}"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["algo.gama=interval(0,1)"], "gama"),
        (["algo.gamma=interval(1,0)"], "algo.gamma: "),
        (["core=gru,gruu"], "unknown core 'gruu'"),
        (["core=gruu", "algo.gamma=interval(0,1)"], "unknown core 'gruu'"),
        (["algo=ppo,sac"], "env and algo need one value each"),
        (["algo=dt"], "algo=dt has no search space: give a range to an option"),
        (["seed=1"], "seed cannot be given"),
        (["trials=0"], "trials must be an integer of at least 1"),
        (["objective=fast"], "objective must be return or mean, not 'fast'"),
        (["gru"], "takes KEY=VALUE, not 'gru'"),
        (["algo.gamma=[0,1"], "cannot read the options"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "env=copy", f"dir={tmp_path / 'a'}", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_the_best_options_are_tuned_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["env=copy", "core=gru,lstm", "algo.gamma=interval(0,1)", "hidden_size=16"]
    assert main(["tune", *options, "trials=4", "prune=false", f"dir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    text = (tmp_path / "tuned" / "copy-ppo.yaml").read_text()
    assert text.startswith(
        "# @package _global_\n# best of 4 trials of rlmem tune env=copy algo=ppo"
    )
    settings = yaml.safe_load(text)
    assert settings["hidden_size"] == 16
    rows = (tmp_path / "trials.csv").read_text().splitlines()
    assert rows[0] == "trial,return,core,algo.gamma"
    values = [float(row.split(",")[1]) for row in rows[1:]]
    assert values == sorted(values, reverse=True)
    assert settings["algo"]["gamma"] == pytest.approx(float(rows[1].split(",")[3]))
    assert f"--config-dir {tmp_path} tuned=copy-ppo" in out


def running(root: Path) -> subprocess.Popen[bytes]:
    options = [*SMALL, "env=copy", "core=gru", "eval_episodes=4", "total_steps=1024"]
    options += ["algo.learning_rate=choice(1e-3,3e-3)", "trials=3", "jobs=2", f"dir={root}"]
    return subprocess.Popen(
        [sys.executable, "-m", "rlmem", "tune", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )


@pytest.mark.slow
def test_a_killed_search_goes_on(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        end = time.monotonic() + 120
        while len(list(tmp_path.glob("trial*/metrics.csv"))) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    with running(tmp_path) as process:
        out = process.communicate()[0].decode()
    assert process.returncode == 0
    assert "trials: 3 complete" in out
    # Trials 0 and 1 were interrupted; both have their evaluation.
    assert len(list(tmp_path.glob("trial*/eval.json"))) == 3
    words = out.split("next: rlmem ")[1].split()
    assert main([*words, "eval_episodes=2", f"run_dir={tmp_path / 'best'}"]) == 0
    config = yaml.safe_load((tmp_path / "best" / "config.yaml").read_text())
    best = yaml.safe_load((tmp_path / "tuned" / "copy-ppo.yaml").read_text())
    assert config["algo"]["learning_rate"] == best["algo"]["learning_rate"]
