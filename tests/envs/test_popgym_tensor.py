"""Batched POPGym tasks equal the package's, step by step, from the same hidden states."""

from __future__ import annotations

import pytest

from rlmem import envs
from rlmem.envs.popgym.task import DIFFICULTIES
from rlmem.envs.spaces import FlatSpace
from tests.envs import popgym_state_boards, popgym_state_cards, popgym_state_physics
from tests.envs.popgym_parity import Parity, original

ATTACH = {**popgym_state_cards.ATTACH, **popgym_state_boards.ATTACH, **popgym_state_physics.ATTACH}


@pytest.mark.by_day(3)
@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("name", ATTACH)
def test_a_batched_task_equals_the_package_step_by_step(name: str, difficulty: str) -> None:
    Parity(name, difficulty, ATTACH[name], num_envs=4).check_episodes(at_least=6)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("name", ATTACH)
def test_spaces_are_those_of_the_package(name: str, difficulty: str) -> None:
    ours = envs.make(name, num_envs=1, difficulty=difficulty, previous_action=False)
    theirs = original(name, difficulty)
    assert ours.observation_space == FlatSpace("obs", theirs.observation_space).spaces
    assert ours.action_space == FlatSpace("action", theirs.action_space).spaces
