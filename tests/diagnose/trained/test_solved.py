"""Saliency of agents that have solved their task points to the observation that they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rlmem
from rlmem.diagnose.trained import diagnose


def saliency(env: str, core: str, total_steps: int, folder: Path) -> dict[str, Any]:
    run = str(folder / "run")
    result = rlmem.train(env, core=core, total_steps=total_steps, run_dir=run, threads=1)
    assert result.return_mean > 0.99
    found: dict[str, Any] = diagnose(run, analyses=["saliency"])["analyses"]["saliency"]["action"]
    return found


@pytest.mark.slow
@pytest.mark.learning
def test_the_card_of_three_steps_before(tmp_path: Path) -> None:
    found = saliency("popgym-repeat", "ffm", 600_000, tmp_path)
    assert found["largest"][3] > 0.9
    assert found["past"][3] > 0.95


@pytest.mark.slow
@pytest.mark.learning
def test_the_cue_of_a_maze_at_the_turn(tmp_path: Path) -> None:
    found = saliency("tmaze-passive", "gru", 200_000, tmp_path)
    assert found["decisions"][-1] == 10
    assert found["last"][0] == [0, 1.0]
