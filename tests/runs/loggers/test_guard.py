"""Loggers are asked for by options; their errors never end a training."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rlmem
from rlmem.cli.main import main
from rlmem.runs.loggers import choice
from rlmem.runs.loggers.base import Guarded, Logger, Run
from tests.cli.common import python
from tests.runs.loggers.common import OFF, SIZES


@pytest.fixture(autouse=True)
def _temporary_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "extra"), [("tensorboard", "train"), ("wandb", "wandb"), ("mlflow", "mlflow")]
)
def test_a_missing_package_is_one_line_with_its_extra(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    assert main(["train", f"log.{name}=true", "run_dir=a"]) == 2
    hint = f"pip install 'rlmem[{extra}]', in a checkout pip install -e '.[{extra}]'"
    assert capsys.readouterr().err == f"rlmem: log.{name}=true needs {name}: {hint}\n"
    assert not Path("a").exists()


def test_only_the_asked_for_packages_are_imported() -> None:
    options = ["core=gru", "log.tensorboard=false", "num_envs=4", "total_steps=512"]
    options += ["eval_episodes=1", "run_dir=a", "algo.num_minibatches=2"]
    code = (
        f"import sys; from rlmem.cli.main import main; main(['train', *{options}]); "
        "print({'wandb', 'mlflow', 'tensorboard', 'moviepy'} & set(sys.modules))"
    )
    out, err = python("-c", code, new=True).communicate()
    assert out.splitlines()[-1] == "set()", err


class Recorder(Logger):
    """Notes its calls, and fails in the method `at` from step 256 on."""

    def __init__(self, at: str) -> None:
        self.at = at
        self.calls: list[tuple[str, Any]] = []

    def _call(self, name: str, step: Any) -> None:
        self.calls.append((name, step))
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002 (as other packages do)
        if name == self.at and step in (256, False):
            raise OSError(28, "No space left on device")

    def on_iteration(self, training: rlmem.Training, metrics: Mapping[str, float]) -> None:
        if metrics:
            times = {"step", "seconds", "steps_per_second"}
            assert times | set(metrics) == set(training.row)
        self._call("iteration", training.step)

    def on_evaluation(self, training: rlmem.Training, result: Mapping[str, Any]) -> None:
        self._call("evaluation", training.step)

    def on_checkpoint(self, training: rlmem.Training, path: Path) -> None:
        self._call("checkpoint", training.step)

    def close(self, failed: bool) -> None:
        self._call("close", failed)


CALLS = [
    *(("iteration", 128), ("iteration", 256), ("evaluation", 256), ("checkpoint", 256)),
    *(("iteration", 384), ("iteration", 512), ("evaluation", 512), ("checkpoint", 512)),
    ("close", False),
]


def random_states() -> tuple[Any, ...]:
    numpy = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return random.getstate(), numpy["pos"], numpy["key"].tolist(), torch.get_rng_state().tolist()


LINE = "log.mine failed, and is off now: OSError: [Errno 28] No space left on device"


@pytest.mark.parametrize("at", ["iteration", "evaluation", "checkpoint", "close", "nowhere"])
def test_an_error_is_one_line(at: str, capsys: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder(at)
    training = object.__new__(rlmem.Training)  # only its step counts here
    training.row = {}
    before = random_states()
    with Guarded("log.mine", lambda: recorder) as guarded:
        for name, training.step in CALLS[:-1]:
            calls: dict[str, Any] = {"iteration": {}, "evaluation": {}, "checkpoint": Path()}
            getattr(guarded, f"on_{name}")(training, calls[name])
    wanted = CALLS
    if at in ("iteration", "evaluation", "checkpoint"):
        wanted = [*CALLS[: CALLS.index((at, 256)) + 1], ("close", True)]
    elif at == "close":
        wanted = [*CALLS, ("close", True)]
    assert recorder.calls == wanted
    assert capsys.readouterr().err.splitlines() == ([] if at == "nowhere" else [LINE])
    assert before == random_states()


def test_the_training_goes_on_after_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorders = [Recorder("iteration"), Recorder("nowhere")]

    def opened(trained: object, stack: Any) -> list[Guarded]:
        guarded = [Guarded("log.mine", lambda each=each: each) for each in recorders]
        return [stack.enter_context(each) for each in guarded]

    monkeypatch.setattr(choice, "opened", opened)
    options = SIZES | {"checkpoint_every": 256, "eval_every": 256, "log": OFF}
    result = rlmem.train("popgym-repeat", run_dir="a", **options)
    assert result.step == 512
    assert recorders[0].calls == [*CALLS[:2], ("close", True)]
    assert recorders[1].calls == CALLS
    lines = [each for each in capsys.readouterr().err.splitlines() if "log.mine" in each]
    assert lines == [LINE]


def test_an_error_at_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> Logger:
        raise ConnectionRefusedError("no network\nwith details")

    with Guarded("log.mine", fail) as guarded:
        guarded.on_checkpoint(object.__new__(rlmem.Training), Path())
    line = "log.mine failed, and is off now: ConnectionRefusedError: no network\n"
    assert capsys.readouterr().err == line


def test_ids_are_kept_side_by_side(tmp_path: Path) -> None:
    run = Run(tmp_path, 0, {})
    assert run.saved_id("wandb") is None
    run.save_id("wandb", "a")
    run.save_id("mlflow", "b")
    assert (run.saved_id("wandb"), run.saved_id("mlflow")) == ("a", "b")
