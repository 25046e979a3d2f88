"""`rlmem play` with masks: random actions and those of a person are legal."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch

from rlmem import envs
from rlmem.cli.main import main
from rlmem.cli.play.actions import HumanActions, RandomActions
from rlmem.cli.play.describe import Describer
from rlmem.errors import UsageError
from tests.algos.masked_env import FORMS, MaskedEnv


@pytest.mark.parametrize("form", FORMS)
def test_random_actions_are_legal_in_every_form(form: str) -> None:
    env = MaskedEnv(form, num_envs=1)
    actions, obs = RandomActions(env, 0), env.reset()
    for _ in range(40):
        obs = env.step(actions(obs, False)).obs
    assert env.checked == 40


def test_random_actions_are_uniform_over_legal_ones() -> None:
    env: Any = envs.make("popgym-minesweeper", num_envs=1, action_mask=True)
    obs = env.reset(0)
    mask = torch.zeros(1, 4, 4, dtype=torch.uint8)
    mask[0, 1, 2] = mask[0, 3, 0] = mask[0, 3, 3] = 1
    obs["obs.action_mask"] = mask
    actions = RandomActions(env, 0)
    drawn = torch.cat([actions(obs, False)["action"] for _ in range(900)])
    counts = np.unique(drawn.numpy(), axis=0, return_counts=True)
    assert counts[0].tolist() == [[1, 2], [3, 0], [3, 3]]
    # Five standard deviations.
    assert (abs(counts[1] - 300) < 5 * (900 * 2 / 9) ** 0.5).all()


def test_a_person_cannot_choose_an_illegal_action(monkeypatch: pytest.MonkeyPatch) -> None:
    env: Any = envs.make("popgym-battleship", num_envs=1, action_mask=True)
    person = HumanActions(env, Describer(env))
    env.reset(0)
    obs = env.step({"action": torch.tensor([[2, 5]])}).obs
    monkeypatch.setattr("sys.stdin", io.StringIO("2 5\n2 6\n"))
    with pytest.raises(UsageError, match="row 2 column 5 is not legal now"):
        person(obs, False)
    assert person(obs, False)["action"].tolist() == [[2, 6]]


def test_a_random_game_with_masks_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", "env=popgym-battleship", "env.action_mask=true", "seed=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shots = [line.partition("row ")[2].split("  ")[0] for line in lines if "row " in line]
    assert len(shots) == len(set(shots)) > 20
