"""Periodic checkpoints: their distance, and their share of the time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from rlmem.errors import UsageError
from rlmem.runs import saver
from rlmem.runs.resume import Start
from rlmem.runs.saver import Saver, interval


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        ("10%", 1000),
        ("2.5 %", 250),
        ("100%", 10_000),
        ("0.001%", 1),
        ("5000", 5000),
        (5000, 5000),
        ("1e3", 1000),
        ("2000.0", 2000),
        (None, None),
    ],
)
def test_distances(every: str | int | None, steps: int | None) -> None:
    assert interval("checkpoint_every", every, 10_000) == steps


@pytest.mark.parametrize("every", ["often", "0", 0, -5, "0%", "-10%", "200%", "1.5", "", "%"])
def test_bad_distances(every: str | int) -> None:
    with pytest.raises(UsageError, match="a number of steps, a percentage like 10% or null"):
        interval("checkpoint_every", every, 10_000)


class Clock:
    """Stands for the module `time`."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Nothing:
    """An algorithm without anything to learn."""

    policy: Any = None
    steps_per_iteration = 10

    def iterate(self, progress: float) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[list[int], float]]:
    """Plays 100 iterations; returns the steps of checkpoints and their fraction of the time."""

    def run_(every: str, iteration: float, cost: float) -> tuple[list[int], float]:
        clock, steps = Clock(), []

        def save(run_dir: Path, step: int, *_: object, **__: object) -> Path:
            clock.now += cost
            steps.append(step)
            return tmp_path

        monkeypatch.setattr(saver, "time", clock)
        monkeypatch.setattr("rlmem.runs.checkpoint.save", save)
        cfg = {"checkpoint_every": every, "total_steps": 1000, "checkpoint_keep": 1}
        start = Start(env=None, policy=None, algo=Nothing(), step=0, seeds_used=0)  # type: ignore
        found = Saver(OmegaConf.create(cfg | {"num_envs": 1, "env": {}}), Path(), start)
        for step in range(10, 1001, 10):
            clock.now += iteration
            found.after_iteration(step)
        return steps, cost * len(steps) / clock.now

    return run_


def test_a_percentage_saves_at_each_part_of_a_run(run: Callable[..., Any]) -> None:
    assert run("10%", 1.0, 0.05)[0] == list(range(100, 1001, 100))
    assert run("25%", 1.0, 0.05)[0] == [250, 500, 750, 1000]


@pytest.mark.parametrize("iteration", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("cost", [0.1, 2.0, 30.0])
def test_checkpoints_at_a_percentage_are_cheap(
    run: Callable[..., Any], iteration: float, cost: float
) -> None:
    steps, fraction = run("10%", iteration, cost)
    # The first one is measured; later ones wait until they are cheap.
    assert steps[0] == 100
    assert fraction < 0.01 or len(steps) == 1


def test_a_number_of_steps_is_exact_at_any_cost(run: Callable[..., Any]) -> None:
    assert run("200", 0.01, 30.0)[0] == [200, 400, 600, 800, 1000]
