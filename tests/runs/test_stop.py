"""Signals: the first one lets an iteration finish or leaves it at a safe point, a second stops."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch

from rlmem.runs import stop as module
from rlmem.runs.guard import GuardedEnv
from rlmem.runs.stop import Interrupted, LeftIteration, Stop
from tests.data.counting import Counting

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.parametrize(("number", "code"), CODES.items())
def test_the_first_signal_is_only_noted_while_iterating(number: int, code: int) -> None:
    stop = Stop()
    before = signal.getsignal(number)
    with stop.handlers():
        with stop.finishing_iterations():
            assert stop.requested is None
            os.kill(os.getpid(), number)
            assert stop.requested == number
            stop.check()
            with pytest.raises(Interrupted) as second:
                os.kill(os.getpid(), number)
        assert second.value.exit_code == code
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


def test_outside_of_iterations_the_first_signal_stops() -> None:
    with Stop().handlers(), pytest.raises(Interrupted):
        os.kill(os.getpid(), signal.SIGTERM)


def test_an_ignored_hangup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop().handlers():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


class Hangs(Counting):
    """Never returns from its second step."""

    def step(self, action):
        if self.reset_count:
            time.sleep(60)
        self.reset_count = 1
        return super().step(action)

    reset_count = 0


def test_a_late_iteration_is_left_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    stop = Stop()
    env = GuardedEnv(Hangs([3], [True]), stop)
    env.reset([0])
    with stop.handlers(), stop.finishing_iterations():
        env.step({"action": torch.zeros(1, dtype=torch.int64)})
        os.kill(os.getpid(), signal.SIGTERM)
        begin = time.monotonic()
        with pytest.raises(LeftIteration):
            env.step({"action": torch.zeros(1, dtype=torch.int64)})
        assert 0.1 < time.monotonic() - begin < 5
        stop.left()
        time.sleep(1.2)  # nothing interrupts the checkpoint that follows
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_late_iteration_is_left_after_a_step_of_an_optimizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], 0.5)
    weight.grad = torch.ones(1)
    stop = Stop()
    with stop.handlers(), stop.finishing_iterations():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        with pytest.raises(LeftIteration):
            optimizer.step()
        assert weight.item() == 0.5  # this step is complete
    optimizer.step()
    assert weight.item() == 0.0
