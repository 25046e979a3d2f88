"""Adaptation to new tasks: what is counted, and what the report says of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rlmem import adapt, evaluate
from rlmem.adapt import Scores
from rlmem.envs.base import Tensors
from rlmem.envs.trials import Trials
from rlmem.policies import Act
from tests.algos.counting import Counting


class Still:
    """Always takes the action 0."""

    def initial_state(self, batch_size: int) -> Tensor:
        return torch.zeros(batch_size)

    def act(self, obs: Tensors, state: Tensor, start: Tensor, deterministic: bool = False) -> Act:
        return Act({"action": torch.zeros(len(start), dtype=torch.int64)}, state)


@pytest.mark.parametrize("stop_returns", [False, True])
def test_returns_go_to_the_episode_in_which_they_were_earned(stop_returns: bool):
    # Environment 0: episodes of 1 + 2; environment 1: of 1 + 2 + 3 + 4. The trial of the first is
    # over after 6 steps, and what it plays while the other goes on does not count.
    env = Trials(Counting([2, 4], [True, False]), episodes=3, stop_returns=stop_returns)
    found = evaluate.per_episode(Still(), env, [1, 3], True)
    assert found.tolist() == [[3.0, 3.0, 3.0], [10.0, 10.0, 10.0]]


def test_an_environment_without_trials_has_one_episode():
    found = evaluate.per_episode(Still(), Counting([2, 3], [True, False]), [1, 3], True)
    assert found.tolist() == [[3.0], [6.0]]


def test_what_is_said_of_scores_by_hand():
    # Two trials of two episodes.
    agent = Scores("agent", np.array([[[1.0, 3.0], [0.0, 2.0]]]))
    chance = Scores("random", np.array([[[0.0, 0.0], [1.0, 1.0]]]))
    oracle = Scores("oracle", np.array([[[3.0, 3.0], [2.0, 2.0]]]))
    told = adapt.describe(agent, [agent, chance, oracle])
    assert told["mean"].value == 3.0
    assert told["first_episode"].value == 0.5
    assert told["last_episode"].value == 2.5
    assert told["last_minus_first"].value == 2.0
    assert [point.value for point in told["curve"]] == [0.5, 2.5]
    # 4 > 0, and 2 ties with 2.
    assert told["probability_of_improvement"]["random"].value == 0.75
    assert told["probability_of_improvement"]["oracle"].value == 0.0
    assert told["regret"].value == 2.0
    # Chance has 1 on average, the oracle 5: 3 is half of the way.
    assert told["share_of_oracle"].value == 0.5
    assert told["mean_of_each_run"].values == [3.0]


def test_kinds_of_tasks_are_counted_apart():
    agent = Scores("agent", np.array([[[1.0, 3.0], [0.0, 2.0], [5.0, 5.0]]]))
    chance = Scores("random", np.array([[[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]]]))
    told = adapt.by_kind([agent, chance], ["b", "a", "b"])
    assert list(told) == ["a", "b"]
    assert (told["a"]["trials"], told["b"]["trials"]) == (1, 2)
    assert told["a"]["agent"] == (2.0, 2.0, 2.0)
    assert told["b"]["agent"].value == 7.0
    assert told["b"]["random"].value == 1.0
    assert adapt.by_kind([agent, chance], []) == {}


def test_environments_that_have_no_kinds_are_not_made_for_them():
    made: list[int] = []

    def make(num_envs: int) -> Trials:
        made.append(num_envs)
        return Trials(Counting([2] * num_envs, [True] * num_envs), episodes=3)

    assert adapt._kinds(make, [1, 2, 3]) == []
    assert made == [1]
