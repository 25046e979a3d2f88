"""Gymnasium environments on the command line: files, modules, their own options, bad values."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from rlmem.cli.main import main
from tests.cli.common import SMALL

SOURCE = """
import gymnasium
import numpy as np

class Task(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, length=3, reward=2.0, bad=0):
        self.length, self.reward, self.bad = length, reward, bad

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        seen = np.array([0, np.nan if self.time == self.bad else 1], np.float32)
        return seen, self.reward, self.time == self.length, False, {}
"""


@pytest.fixture(autouse=True)
def _without_the_current_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for the installed program, which has its own folder first on the path."""
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(Path.cwd()))])


CART, C = "CartPole-v1", {"c": 2}


@pytest.mark.parametrize(
    ("options", "name", "id", "kwargs"),
    [
        (["env=gym", "env.kwargs={a: 1}"], "gym", CART, {"a": 1}),
        (["env=gym", "env.kwargs={a:{b:x}}", "env.kwargs.c=2"], "gym", CART, {"a": {"b": "x"}} | C),
        (["env=masked", "env.kwargs.a=1", "env.kwargs.c=2"], "masked", CART, {"a": 1} | C),
        (["env=minigrid-memory", "env.kwargs.a=5"], "minigrid-memory", None, {"a": 5}),
        (["env=gym", "+env.kwargs.a=1", "++env.kwargs.b=2"], "gym", CART, {"a": 1, "b": 2}),
        (["env=./tasks.py:Task", "env.kwargs.a=5"], "gym", "./tasks.py:Task", {"a": 5}),
        (["env=tasks:Task-v0"], "gym", "tasks:Task-v0", {}),
        (["env=gym", "env.id=tasks:Task"], "gym", "tasks:Task", {}),
    ],
)  # fmt: skip
def test_options_of_an_environment_itself(
    options: list[str],
    name: str,
    id: str | None,
    kwargs: dict[str, object],
    trained: list[DictConfig],
) -> None:
    assert main(["train", *options]) == 0
    (cfg,) = trained
    assert (cfg.env.name, cfg.env.get("id"), cfg.env.kwargs) == (name, id, kwargs)


def test_a_sweep_over_options_and_files(trained: list[DictConfig]) -> None:
    assert main(["train", "-m", "env=a.py:Task,b.py:Task", "env.kwargs.length=2,3"]) == 0
    found = [(cfg.env.id, cfg.env.kwargs.length) for cfg in trained]
    assert found == [("a.py:Task", 2), ("a.py:Task", 3), ("b.py:Task", 2), ("b.py:Task", 3)]


def test_a_class_in_a_file_is_trained_and_evaluated() -> None:
    name = f"tasks_{Path.cwd().name}".replace("-", "_")
    Path(f"{name}.py").write_text(SOURCE)
    options = [f"env={name}.py:Task", "env.kwargs={length:4,reward:3}", "run_dir=run"]
    assert main(["train", *SMALL, *options]) == 0
    assert json.loads(Path("run/eval.json").read_text())["returns"] == [12.0, 12.0]


def test_a_bad_observation_is_one_line(error_line: Callable[..., str]) -> None:
    name = f"bad_{Path.cwd().name}".replace("-", "_")
    Path(f"{name}.py").write_text(SOURCE)
    options = [f"env={name}:Task", "env.kwargs={length:9,bad:7}", "run_dir=run"]
    line = error_line("train", *SMALL, *options)
    assert "environment 0, step 7: obs is [0.0, nan], not a finite float32" in line
    assert "learning_rate" not in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("env=gym env.kwargs.gravitas=1", "unknown option of 'CartPole-v1': 'gravitas' (known: "),
        ("env=popgym-repeat env.kwargs.a=1", "unknown option of env 'popgym-repeat': 'kwargs'"),
        ("env=nowhere.py:Task", "there is no file 'nowhere.py'"),
        ("env=nowhere:Task", "cannot import 'nowhere': no such module, also not in this folder"),
    ],
)
def test_bad_options_are_one_line(
    options: str, message: str, error_line: Callable[..., str]
) -> None:
    assert message in error_line("train", *SMALL, *options.split())
