"""Evaluation in trials: returns per episode, and statistics of the report."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.trials import Trials
from rlmem.policies import Act
from rlmem.runs import meta_evaluate, playing
from rlmem.runs.meta_evaluate import Scores
from tests.data.counting import Counting


class ZeroAgent:
    """Always takes action 0."""

    def initial_state(self, batch_size: int) -> Tensor:
        return torch.zeros(batch_size)

    def act(self, obs: Tensors, state: Tensor, start: Tensor, deterministic: bool = False) -> Act:
        return Act({"action": torch.zeros(len(start), dtype=torch.int64)}, state)


@pytest.mark.parametrize("stop_returns", [False, True])
def test_rewards_count_in_their_episode(stop_returns: bool):
    # Environment 0 has episodes of 1 + 2, environment 1 of 1 + 2 + 3 + 4. The first trial ends
    # after 6 steps; its later steps, until the second trial ends, do not count.
    env = Trials(Counting([2, 4], [True, False]), episodes=3, stop_returns=stop_returns)
    found = playing.play_batch(ZeroAgent(), env, [1, 3], True)
    assert found.tolist() == [[3.0, 3.0, 3.0], [10.0, 10.0, 10.0]]


def test_an_environment_without_trials_has_one_episode():
    found = playing.play_batch(ZeroAgent(), Counting([2, 3], [True, False]), [1, 3], True)
    assert found.tolist() == [[3.0], [6.0]]


def test_statistics_by_hand():
    # Two trials of two episodes.
    agent = Scores("agent", np.array([[[1.0, 3.0], [0.0, 2.0]]]))
    random = Scores("random", np.array([[[0.0, 0.0], [1.0, 1.0]]]))
    oracle = Scores("oracle", np.array([[[3.0, 3.0], [2.0, 2.0]]]))
    summary = meta_evaluate.summarize(agent, [agent, random, oracle])
    assert summary["mean"].value == 3.0
    assert summary["first_episode"].value == 0.5
    assert summary["last_episode"].value == 2.5
    assert summary["last_minus_first"].value == 2.0
    assert [point.value for point in summary["curve"]] == [0.5, 2.5]
    # 4 > 0, and 2 ties with 2.
    assert summary["probability_of_improvement"]["random"].value == 0.75
    assert summary["probability_of_improvement"]["oracle"].value == 0.0
    assert summary["regret"].value == 2.0
    assert "bayes_regret" not in summary
    bayes = Scores("bayes", np.array([[[1.0, 3.0], [2.0, 1.0]]]))
    assert meta_evaluate.summarize(agent, [agent, bayes])["bayes_regret"].value == 0.5
    # The random agent has a mean of 1, the oracle 5: 3 is halfway.
    assert summary["share_of_oracle"].value == 0.5
    assert summary["mean_of_each_run"].values == [3.0]


def test_statistics_of_each_kind_of_task():
    agent = Scores("agent", np.array([[[1.0, 3.0], [0.0, 2.0], [5.0, 5.0]]]))
    random = Scores("random", np.array([[[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]]]))
    summary = meta_evaluate.summarize_kinds([agent, random], ["b", "a", "b"])
    assert list(summary) == ["a", "b"]
    assert (summary["a"]["trials"], summary["b"]["trials"]) == (1, 2)
    assert summary["a"]["agent"] == (2.0, 2.0, 2.0)
    assert summary["b"]["agent"].value == 7.0
    assert summary["b"]["random"].value == 1.0
    assert meta_evaluate.summarize_kinds([agent, random], []) == {}


def test_environments_without_kinds_are_not_created_for_them():
    made: list[int] = []

    def make(num_envs: int) -> Trials:
        made.append(num_envs)
        return Trials(Counting([2] * num_envs, [True] * num_envs), episodes=3)

    assert meta_evaluate._task_kinds(make, [1, 2, 3]) == []
    assert made == [1]
