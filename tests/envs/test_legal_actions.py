"""Random players choose legal actions only, in every form of masks, and in checks."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlmem.envs import checks
from rlmem.envs.legal_actions import LegalActions
from rlmem.envs.meta.players import RandomPlayer
from tests.algos.masked_env import FORMS, MaskedEnv
from tests.envs.test_info_mask import Says
from tests.runs.test_agent_masks import Doors


@pytest.mark.parametrize("form", FORMS)
def test_random_players_take_legal_actions(form: str) -> None:
    env = MaskedEnv(form)
    player, obs, start = RandomPlayer(env), env.reset(), torch.zeros(6, dtype=torch.bool)
    if form == "start":
        # Environments as players see them count from 0; this one does not.
        player.env = env
    for _ in range(40):
        obs = env.step(player.act(obs, (), start).action).obs
    assert env.checked == 240


@pytest.mark.parametrize("form", FORMS)
def test_legal_actions_are_allowed_and_others_are_not(form: str) -> None:
    env = MaskedEnv(form)
    legal = LegalActions.find(env.observation_space, env.action_space)
    assert legal is not None
    obs, seen = env.reset(), set()
    for _ in range(30):
        samples = [{k: s.sample() for k, s in env.action_space.items()} for _ in range(6)]
        action = {
            key: torch.as_tensor(np.stack([sample[key] for sample in samples]))
            for key in env.action_space
        }
        expected = [
            env.form.is_legal(masks, {k: np.asarray(v) for k, v in sample.items()})
            for masks, sample in zip(env.masks, samples, strict=True)
        ]
        assert legal.allows(obs, action).tolist() == expected
        seen |= set(expected)
        assert legal.allows(obs, env.legal_actions()).all()
        obs = env.step(env.legal_actions()).obs
    assert seen == {True, False}


def test_draws_are_uniform_over_legal_combinations() -> None:
    masks = {"obs.action_mask": spaces.Box(0, 1, (2, 3), np.uint8), "obs.x": spaces.Discrete(2)}
    legal = LegalActions.find(masks, {"action": spaces.MultiDiscrete([2, 3])})
    assert legal is not None
    board = torch.tensor([[0, 1, 0], [1, 0, 1]]).expand(9000, 2, 3)
    drawn = legal.draw({"obs.action_mask": board}, torch.Generator().manual_seed(0))["action"]
    counts = (drawn[:, 0] * 3 + drawn[:, 1]).bincount(minlength=6)
    assert counts[[0, 2, 4]].sum() == 0
    # Five standard deviations.
    assert ((counts[[1, 3, 5]] - 3000).abs() < 5 * (9000 * 2 / 9) ** 0.5).all()


@pytest.mark.parametrize("where", ["obs", "info"])
def test_checks_play_legal_actions(where: str) -> None:
    # A closed door is an AssertionError.
    found = checks.check(partial(Doors, where), seconds=0.2)
    assert found.faults == {}
    assert found.mask == {"obs": "obs.action_mask", "info": "info['action_mask']"}[where]
    assert found.steps > 20


@pytest.mark.parametrize("form", ["list", "joint", "tuple", "dict"])
def test_checks_play_legal_actions_of_every_space(form: str) -> None:
    class Strict(Says):
        """Refuses actions that the mask forbids."""

        def step(self, action: Any) -> Any:
            if form == "list":
                assert self.mask[action - 4]
            elif form == "joint":
                assert self.mask[tuple(action)]
            elif form == "tuple":
                assert self.mask[0][action[0]]
                assert self.mask[1][action[1]]
            return super().step(action)

    found = checks.check(lambda: Strict(form), seconds=0.1)
    assert found.faults == {}
    assert found.mask == "info['action_mask']"


def test_checks_name_masks_without_an_action_and_lost_ones() -> None:
    none = checks.check(lambda: Says("list", fault="none"), seconds=0.05)
    assert none.faults["mask"] == "the mask allows no action in step 2"
    lost = checks.check(lambda: Says("list", fault="missing"), seconds=0.05)
    assert lost.faults["mask"] == "info has no 'action_mask' here, and had one before in step 2"
