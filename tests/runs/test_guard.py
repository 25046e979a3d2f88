"""Errors of environments: saved work, one line, and the traceback in a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlmem.errors import UsageError
from rlmem.runs import guard
from rlmem.runs.guard import EnvironmentFailure, GuardedEnv
from rlmem.runs.stop import Stop
from tests.data.counting import Counting

ACTION = {"action": torch.zeros(1, dtype=torch.int64)}


class Broken(Counting):
    """Fails in its steps, and when it is closed."""

    def __init__(self, error: Exception) -> None:
        super().__init__([2], [True])
        self.error = error

    def step(self, action):
        raise self.error

    def close(self) -> None:
        raise RuntimeError("cannot close")


def test_the_environment_is_unchanged_without_errors() -> None:
    plain, guarded = Counting([2], [True]), GuardedEnv(Counting([2], [True]), Stop())
    assert guarded.observation_space == plain.observation_space
    assert torch.equal(guarded.reset([1])["obs"], plain.reset([1])["obs"])
    for _ in range(3):
        one, other = guarded.step(ACTION), plain.step(ACTION)
        assert torch.equal(one.obs["obs"], other.obs["obs"])
        assert torch.equal(one.reward, other.reward)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("the robot fell\nat once"), "ValueError: the robot fell"),
        (KeyError("x"), "KeyError: 'x'"),
        (RuntimeError(), "RuntimeError"),
        (UsageError("action 7 is not in Discrete(2)"), "action 7 is not in Discrete(2)"),
        (EOFError(), "a worker process died (EOFError)"),
        (ConnectionResetError(104, "reset"), "a worker process died (ConnectionResetError)"),
        (ValueError("x" * 1000), f"ValueError: {'x' * 300}"),
    ],
)
def test_an_error_becomes_one_line(error: Exception, text: str) -> None:
    env = GuardedEnv(Broken(error), Stop())
    with pytest.raises(EnvironmentFailure) as failure:
        env.step(ACTION)
    assert str(failure.value) == f"the environment failed: {text}"
    assert failure.value.error is error
    env.close()


def test_the_traceback_is_written_to_a_file(tmp_path: Path) -> None:
    env = GuardedEnv(Broken(ValueError("the robot fell")), Stop())
    for _ in range(2):
        with pytest.raises(EnvironmentFailure) as failure:
            env.step(ACTION)
        line = guard.report(failure.value, tmp_path, "at step 5")
    failed = "the environment failed: ValueError: the robot fell; at step 5; "
    assert str(line) == f"{failed}traceback: {tmp_path}/error.txt"
    text = (tmp_path / "error.txt").read_text()
    assert text.count("Traceback (most recent call last)") == 2
    assert "raise self.error\nValueError: the robot fell" in text
    elsewhere = str(guard.report(failure.value, None)).rpartition("traceback: ")[2]
    assert "ValueError: the robot fell" in Path(elsewhere).read_text()


def test_closing_does_not_hide_an_error() -> None:
    env = Broken(ValueError("first"))
    with pytest.raises(ValueError, match="first"), guard.closing(env):
        env.step(ACTION)
    with pytest.raises(RuntimeError, match="cannot close"), guard.closing(env):
        pass
