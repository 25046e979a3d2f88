"""Runs that are stopped by a signal or by their environment: saved, one line, can be resumed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlmem.cli.main import main
from rlmem.runs import checkpoint, resume, train
from tests.cli.common import SMALL, python

# Fails or hangs in step `at` of each copy.
ODD = """
import os, time
import gymnasium as gym, numpy as np

class Odd(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (3,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, mode="ok", at=80, render_mode=None):
        self.mode, self.at, self.count = mode, at, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.count += 1
        self.time += 1
        if self.count == self.at:
            if self.mode == "raise":
                raise ValueError("the robot fell\\nat once")
            if self.mode == "die":
                os.kill(os.getpid(), 9)
            if self.mode == "hang":
                open("hangs", "w").close()
                time.sleep(1000)
        return np.zeros(3, np.float32), 1.0, self.time >= 10, False, {}

gym.register("Odd-v0", Odd)
"""
ENV = [*SMALL, "env=gym", "env.id=odd_env:Odd-v0", "core=gru", "run_dir=a", "total_steps=1024"]


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "odd_env.py").write_text(ODD)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("odd_env", None)
    gym.registry.pop("Odd-v0", None)


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process, killed at the end if it still runs."""
    with python(*arguments) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    """Wait for something that the process does."""
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def has_rows() -> bool:
    """Whether the run `a` has two rows of metrics."""
    metrics = Path("a/metrics.csv")
    return metrics.exists() and metrics.read_text().count("\n") > 2


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_saves_a_checkpoint_that_can_be_resumed(number: int, code: int) -> None:
    with running("-m", "rlmem", "train", *ENV, "total_steps=100000000") as process:
        wait_until(process, has_rows)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    saved = checkpoint.last("a")
    assert err.endswith(f"saved {saved}; resume with: rlmem train resume=a trust=true\n")
    last_row = Path("a/metrics.csv").read_text().splitlines()[-1]
    step = checkpoint.steps("a")[-1]
    assert step == int(last_row.split(",")[0])
    assert main(["train", "resume=a", "trust=true", f"total_steps={step + 128}"]) == 0
    assert checkpoint.steps("a")[-1] == step + 128


@pytest.mark.by_day(2)
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_hanging_environment_is_left(vectorization: str) -> None:
    code = (
        "import sys; from rlmem.runs import stop; stop.PATIENCE = 1.0; "
        "from rlmem.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    options = ["+env.kwargs.mode=hang", f"env.vectorization={vectorization}"]
    with running("-c", code, "train", *ENV, *options) as process:
        wait_until(process, Path("hangs").exists)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    # Step 80 of a copy is in the third iteration of 32 steps.
    assert checkpoint.steps("a")[-1] == 2 * 128
    assert err.endswith("step-000000256; resume with: rlmem train resume=a trust=true\n")


def test_a_second_signal_stops_at_once() -> None:
    with running("-m", "rlmem", "train", *ENV, "+env.kwargs.mode=hang") as process:
        wait_until(process, Path("hangs").exists)
        process.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert process.poll() is None
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert time.monotonic() - begin < 8  # the patience with the first one is 10 seconds
    assert process.returncode == 143


@pytest.mark.by_day(4)
@pytest.mark.parametrize(
    ("mode", "vectorization", "every", "text"),
    [
        ("raise", "sync", "null", "ValueError: the robot fell"),
        ("raise", "sync", "10%", "ValueError: the robot fell"),
        ("raise", "async", "null", "ValueError: the robot fell"),
        ("die", "async", "null", "the process of environment 0 died (exit code -9)"),
    ],
)
def test_an_error_of_the_environment_saves_the_last_iteration(
    mode: str, vectorization: str, every: str, text: str
) -> None:
    options = [f"env.vectorization={vectorization}", f"checkpoint_every={every}"]
    with running("-m", "rlmem", "train", *ENV, *options, f"+env.kwargs.mode={mode}") as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    line = err.splitlines()[-1]
    saved = "a/checkpoints/step-000000256"
    assert line.startswith("rlmem: the environment failed: ")
    assert text in line
    assert f"at step 256; the last good checkpoint is {saved}; traceback: a/error.txt" in line
    assert "Traceback" not in err
    assert "Traceback" in Path("a/error.txt").read_text()
    assert checkpoint.steps("a")[-1] == 256
    assert main(["train", "resume=a", "trust=true", "env.kwargs.mode=ok"]) == 0
    assert checkpoint.steps("a")[-1] == 1024


@pytest.mark.by_day(2)
@pytest.mark.parametrize("algo", ["ppo", "pqn", "r2d2", "sac", "amago"])
def test_the_saved_weights_are_those_of_the_last_iteration(
    algo: str, monkeypatch: pytest.MonkeyPatch, error_line: Callable[..., str]
) -> None:
    """Also in other algorithms: the weights do not change while they act."""
    weights: list[dict[str, torch.Tensor]] = []

    class Loud(train.RunLogger):
        def log(self, step, values):
            super().log(step, values)
            weights.append({k: w.clone() for k, w in policies[0].state_dict().items()})

    policies = []
    build = resume.build

    def remember(*arguments: object):
        env, policy, algorithm = build(*arguments)
        policies.append(policy)
        return env, policy, algorithm

    monkeypatch.setattr(resume, "build", remember)
    monkeypatch.setattr(train, "RunLogger", Loud)
    options = [each for each in ENV if not each.startswith("algo.")]
    options += ["algo.num_steps=32", f"algo={algo}", "+env.kwargs.mode=raise", "+env.kwargs.at=200"]
    options += ["algo.num_minibatches=2"] if algo in ("ppo", "pqn") else []
    if algo in ("r2d2", "sac", "amago"):
        options += ["algo.learning_starts=128", "algo.replay.length=8", "algo.replay.batch_size=4"]
    error_line("train", *options)
    saved = checkpoint.load("a")
    assert saved.step == 6 * 128
    assert len(weights) == 6
    for name, weight in weights[-1].items():
        np.testing.assert_array_equal(saved.weights[name], weight)


def test_an_error_in_the_evaluation_keeps_the_trained_agent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Each copy takes 256 steps in training, and each copy of an evaluation 10.
    assert main(["train", *ENV, "env.vectorization=sync"]) == 0
    capsys.readouterr()
    config = Path("a/config.yaml")
    config.write_text(config.read_text().replace("kwargs: {}", "kwargs: {mode: raise, at: 7}"))

    def last_line(*arguments: str) -> str:
        assert main([*arguments, "trust=true"]) == 2
        return capsys.readouterr().err.splitlines()[-1].removeprefix("rlmem: ")

    line = last_line("eval", "run=a", "episodes=1")
    assert line == "the environment failed: ValueError: the robot fell; traceback: a/error.txt"
    assert checkpoint.steps("a")[-1] == 1024
    line = last_line("play", "run=a")
    assert line.startswith("the environment failed: ValueError: the robot fell; traceback: a/error")


def test_a_run_without_an_end_of_episodes_is_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    cliff = ["env=gym", "env.id=CliffWalking-v1", "core=none", "eval_max_steps=30"]
    assert main(["train", *SMALL, *cliff, "run_dir=a", "total_steps=300"]) == 0
    out, err = capsys.readouterr()
    assert re.search(
        r"over 2 episodes \(2 unfinished\) after 384 steps, 84 more than total_steps \(", out
    )
    assert "2 of 2 episodes did not end within 30 steps" in err
    assert "env.max_episode_steps=N" in err
    report = json.loads(Path("a/eval.json").read_text())
    assert report["unfinished"] == 2
    assert all(value <= -30 for value in report["returns"])
    assert main(["eval", "run=a", "episodes=1", "eval_max_steps=7"]) == 0
    assert json.loads(Path("a/eval.json").read_text())["unfinished"] == 1
    capsys.readouterr()
    assert main(["play", "run=a", "eval_max_steps=5"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"not ended after 5 steps \(eval_max_steps; env.max_episode_steps=N", out)
