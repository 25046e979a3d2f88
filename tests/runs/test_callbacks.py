"""Callbacks: their calls, stops and errors; evaluations during training leave it unchanged."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import rlmem
from rlmem import envs
from rlmem.runs import checkpoint, sealed

SIZES: dict[str, Any] = {
    "core": "gru",
    "num_envs": 4,
    "hidden_size": 8,
    "total_steps": 512,
    "eval_episodes": 6,
    "algo": {"num_steps": 32, "num_minibatches": 2},
    "log": {"tensorboard": False, "progress": False},
}


@pytest.fixture(autouse=True)
def _temporary_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Recorder(rlmem.Callback):
    """Writes down all calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.last: Any = None

    def on_iteration(self, training: rlmem.Training, metrics: Mapping[str, float]) -> None:
        assert {"policy_loss", "learning_rate"} <= set(metrics)
        assert (training.total_steps, training.run_dir) == (512, Path("a"))
        self.calls.append(("iteration", training.step))

    def on_evaluation(self, training: rlmem.Training, result: Mapping[str, Any]) -> None:
        assert result["step"] == training.step
        assert len(result["returns"]) == 6
        self.calls.append(("evaluation", training.step))
        self.last = result

    def on_checkpoint(self, training: rlmem.Training, path: Path) -> None:
        assert (path / "model.safetensors").is_file()
        self.calls.append(("checkpoint", training.step))


def test_calls_in_their_order() -> None:
    recorder = Recorder()
    options = SIZES | {"checkpoint_every": 256, "eval_every": "50%"}
    result = rlmem.train("popgym-repeat", run_dir="a", callbacks=[recorder], **options)
    assert recorder.calls == [
        ("iteration", 128),
        ("iteration", 256),
        ("evaluation", 256),
        ("checkpoint", 256),
        ("iteration", 384),
        ("iteration", 512),
        ("evaluation", 512),
        ("checkpoint", 512),
    ]
    # The last evaluation is that of the run.
    assert recorder.last == result.evaluation == sealed.read(Path("a/eval.json"), required=True)


def test_without_evaluations_only_the_last_one_is_reported() -> None:
    recorder = Recorder()
    rlmem.train("popgym-repeat", run_dir="a", callbacks=[recorder, Recorder()], **SIZES)
    assert [step for name, step in recorder.calls if name == "evaluation"] == [512]
    assert not Path("a/evaluations.csv").exists()


class StopAt(rlmem.Callback):
    """Stops at a step."""

    def on_iteration(self, training: rlmem.Training, metrics: Mapping[str, float]) -> None:
        if training.step == 256:
            training.stop("enough")


def test_a_callback_stops_the_training(capsys: pytest.CaptureFixture[str]) -> None:
    result = rlmem.train("popgym-repeat", run_dir="a", callbacks=[StopAt()], **SIZES)
    assert (result.step, result.stopped) == (256, "enough")
    assert checkpoint.steps("a") == [128, 256]
    line = capsys.readouterr().out
    assert "over 6 episodes, stopped: enough, after 256 steps (" in line
    assert rlmem.train(resume="a").step == 512


def test_a_stop_before_learning_is_no_error() -> None:
    sizes = SIZES | {"algo": {"name": "sac", "num_steps": 32, "learning_starts": 300}}
    result = rlmem.train("popgym-repeat", run_dir="a", callbacks=[StopAt()], **sizes)
    assert (result.step, result.stopped) == (256, "enough")


class Failing(rlmem.Callback):
    """Fails at its second call."""

    def on_iteration(self, training: rlmem.Training, metrics: Mapping[str, float]) -> None:
        if training.step == 256:
            raise ZeroDivisionError("mine")


def test_an_error_of_a_callback_is_raised_after_a_checkpoint() -> None:
    with pytest.raises(ZeroDivisionError, match="mine"):
        rlmem.train("popgym-repeat", run_dir="a", callbacks=[Failing()], **SIZES)
    assert checkpoint.steps("a") == [128, 256]
    assert rlmem.train(resume="a").step == 512


class Acting(rlmem.Callback):
    """Acts with the agent of each iteration, without effects on the training."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_iteration(self, training: rlmem.Training, metrics: Mapping[str, float]) -> None:
        agent = training.agent
        agent.act(1)
        self.values.append(agent.value(2))
        assert training.algo.policy.training


def weights(run: str) -> dict[str, torch.Tensor]:
    return checkpoint.load(run).weights


@pytest.mark.parametrize(
    ("env", "algo"),
    # The observations of CartPole are normalised.
    [("popgym-repeat", "ppo"), ("CartPole-v1", "ppo"), ("popgym-repeat", "sac")],
)
def test_evaluations_and_copies_of_the_agent_leave_the_training_unchanged(
    env: str, algo: str
) -> None:
    sizes = SIZES | {"algo": {"name": algo, "num_steps": 32}, "checkpoint_every": 128}
    sizes["algo"] |= {"learning_starts": 100} if algo == "sac" else {"num_minibatches": 2}
    acting = Acting() if (env, algo) == ("popgym-repeat", "ppo") else rlmem.Callback()
    results = [
        rlmem.train(env, run_dir="a", **sizes),
        rlmem.train(env, run_dir="b", eval_every=128, callbacks=[acting], **sizes),
    ]
    one, other = weights("a"), weights("b")
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert results[0].evaluation == results[1].evaluation
    for name, column in results[0].metrics.items():
        if name not in ("seconds", "steps_per_second"):
            assert str(column) == str(results[1].metrics[name]), name
    if isinstance(acting, Acting):
        assert len(set(acting.values)) == 4
        agent = rlmem.load("b")
        agent.act(1)
        assert acting.values[-1] == agent.value(2)


def rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_evaluations_in_a_file_also_after_resuming() -> None:
    sizes = SIZES | {"eval_every": 128, "total_steps": 256}
    rlmem.train("popgym-repeat", run_dir="a", **sizes)
    result = rlmem.train(resume="a", total_steps=512)
    found = rows("a/evaluations.csv")
    assert [row["step"] for row in found] == ["128", "256", "384", "512"]
    assert result.evaluations["return_mean"] == [float(row["return_mean"]) for row in found]
    assert float(found[-1]["return_mean"]) == result.return_mean
    assert list(found[0]) == [
        "step",
        "seconds",
        "unfinished",
        "episodes",
        "return_mean",
        "return_iqm",
        "return_std",
        "return_min",
        "return_max",
        "memory_score",
    ]
    # A checkpoint's score is that of its evaluation.
    scores = json.loads(Path("a/checkpoints/index.json").read_text())["scores"]
    assert scores["512"] == result.return_mean


def test_another_environment_for_evaluations() -> None:
    batch, other = (envs.make("popgym-repeat", num_envs=n, difficulty="easy") for n in (4, 3))
    result = rlmem.train(batch, run_dir="a", eval_env=other, eval_every="50%", **SIZES)
    assert [*result.evaluations["step"]] == [256, 512]
    assert result.evaluations["episodes"] == [6, 6]
