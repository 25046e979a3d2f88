"""The batched tasks of POPGym are the package's, step for step, from any hidden state."""

from __future__ import annotations

import pytest

from rlmem import envs
from rlmem.envs.popgym.task import DIFFICULTIES
from rlmem.envs.spaces import FlatSpace
from tests.envs import hidden_boards, hidden_cards, hidden_physics
from tests.envs.beside import Beside, original

ATTACH = {**hidden_cards.ATTACH, **hidden_boards.ATTACH, **hidden_physics.ATTACH}


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("name", ATTACH)
def test_a_batched_task_is_the_packages_step_for_step(name: str, difficulty: str) -> None:
    Beside(name, difficulty, ATTACH[name]).check_episodes(at_least=20)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("name", ATTACH)
def test_spaces_are_the_packages(name: str, difficulty: str) -> None:
    ours = envs.make(name, num_envs=1, difficulty=difficulty, previous_action=False)
    theirs = original(name, difficulty)
    assert ours.observation_space == FlatSpace("obs", theirs.observation_space).spaces
    assert ours.action_space == FlatSpace("action", theirs.action_space).spaces
