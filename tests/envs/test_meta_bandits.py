"""Bandits: distributions of arms, payouts and changes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from rlmem import envs
from rlmem.errors import UsageError
from tests.envs import distribution_asserts

N = 2000


def make(name: str, num_envs: int = N, **options: Any) -> Any:
    env = envs.make(f"meta-{name}", num_envs=num_envs, **options)
    env.reset(1)
    return env


def pull(env: Any, arm: int | Tensor) -> Any:
    arms = torch.as_tensor(arm).expand(env.num_envs)
    return env.step({"action": arms})


def test_chances_are_uniform_and_independent_by_default() -> None:
    chance = make("bandit").env.task.value
    assert chance.shape == (N, 10)
    distribution_asserts.assert_follows(chance, "uniform")
    distribution_asserts.assert_independent(chance[:, 0], chance[:, 1])
    distribution_asserts.assert_independent(chance[1:, 0], chance[:-1, 0])


@pytest.mark.parametrize(("a", "b"), [(1, 3), (3, 1), (4, 4), (2, 5)])
def test_chances_follow_the_beta_distribution(a: int, b: int) -> None:
    chance = make("bandit", arms=[4], prior=[[a, b]], heldout_prior=[[1, 1]]).env.task.value
    distribution_asserts.assert_follows(
        torch.as_tensor(stats.beta(a, b).cdf(chance[:, :4].numpy())), "uniform"
    )


def test_each_task_has_one_prior_and_one_number_of_arms() -> None:
    env = make("bandit", arms=[2, 7], prior=[[1, 9], [9, 1]], heldout_arms=[8])
    task, obs = env.env.task, env.reset(1)
    distribution_asserts.assert_frequencies(task.arms, [0, 0, 1, 0, 0, 0, 0, 1])
    assert env.action_space["action"].n == 8
    assert torch.equal(obs["obs"].sum(1).long(), task.arms)
    for prior, mean in (((1, 9), 0.1), ((9, 1), 0.9)):
        chosen = (task.prior == torch.tensor(prior)).all(1)
        assert 0.45 < chosen.float().mean() < 0.55
        assert abs(task.value[chosen, :2].mean() - mean) < 0.01
    for row in range(5):
        arms = int(task.arms[row])
        assert (task.value[row, arms:] == 0).all()
        assert obs["obs"][row].tolist() == [1.0] * arms + [0.0] * (8 - arms)


def test_arms_pay_with_their_chance_and_other_actions_never() -> None:
    env = make("bandit", arms=[3], heldout_arms=[4])
    chance = env.env.task.value[:, 1].numpy().copy()
    paid = torch.stack([pull(env, 1).reward for _ in range(90)])
    assert set(paid.unique().tolist()) == {0.0, 1.0}
    # The randomised cumulative probability of the number of payouts is uniform.
    wins = paid.sum(0).numpy()
    luck = np.random.default_rng(0).random(N)
    below, upto = stats.binom.cdf(wins - 1, 90, chance), stats.binom.cdf(wins, 90, chance)
    distribution_asserts.assert_follows(torch.as_tensor(below + luck * (upto - below)), "uniform")
    assert not pull(env, 3).reward.any()


def test_every_pull_is_an_episode() -> None:
    env = make("bandit", 3, episodes=4)
    for t in range(12):
        assert env.episode.tolist() == [t % 4] * 3
        step = pull(env, 0)
        assert step.memory_reset.tolist() == step.terminated.tolist() == [t % 4 == 3] * 3
        assert not step.truncated.any()


def test_means_and_noise_are_normal() -> None:
    env = make("gaussian-bandit", prior=[[2.0, 3.0]], noise=0.5, heldout_prior=[[0.0, 1.0]])
    mean = env.env.task.value.clone()
    distribution_asserts.assert_follows((mean - 2) / 3, "norm")
    noise = torch.stack([(pull(env, k).reward - mean[:, k]) / 0.5 for k in range(10)])
    distribution_asserts.assert_follows(noise, "norm")
    assert abs(np.corrcoef(noise[:2])[0, 1]) < 0.1


def test_without_noise_arms_pay_their_mean_and_other_actions_pay_worst() -> None:
    env = make("gaussian-bandit", noise=0.0, arms=[2], heldout_arms=[3])
    mean = env.env.task.value.clone()
    for arm in range(3):
        torch.testing.assert_close(pull(env, arm).reward, mean[:, arm])
    # Three deviations below the mean of the worst prior.
    assert (mean[:, 2] == -3).all()


def switching(env: Any, arms: list[int]) -> Tensor:
    """The chances before each pull of a trial, [T, N, A]."""
    env.reset(1)
    chances = []
    for arm in arms:
        chances.append(env.env.task.value.clone())
        pull(env, arm)
    return torch.stack(chances)


def test_all_arms_change_together_with_the_probability_of_the_task() -> None:
    env = make("switching-bandit", 500, hazard=[[0.05, 0.1]], heldout_hazard=[[0.2, 0.3]])
    hazard = env.env.task.hazard.clone()
    distribution_asserts.assert_follows((hazard - 0.05) / 0.05, "uniform")
    chances = switching(env, [0] * 200)
    changes = (chances[1:] != chances[:-1]).all(2)
    assert torch.equal(changes, (chances[1:] != chances[:-1]).any(2))
    # 199 possible changes for each task.
    wanted = 199 * hazard
    deviation = (changes.sum(0) - wanted) / (wanted * (1 - hazard)).sqrt()
    assert abs(float(deviation.mean())) < 3 / 500**0.5
    assert 0.9 < float(deviation.std()) < 1.1
    # The times of changes are independent.
    after = changes[1:][changes[:-1]].float().mean()
    assert abs(float(after - (hazard**2).mean() / hazard.mean())) < 0.01
    distribution_asserts.assert_follows(chances[100], "uniform")
    distribution_asserts.assert_independent(chances[1:, :, 0][changes], chances[:-1, :, 0][changes])


def test_changes_do_not_depend_on_actions() -> None:
    env = make("switching-bandit", 20)
    assert torch.equal(switching(env, [0] * 50), switching(env, [t % 5 for t in range(50)]))
    # Without changes the chances stay the same until the end of the trial.
    env = make(
        "switching-bandit", 20, episodes=10, hazard=[[0.0, 1e-6]], heldout_hazard=[[0.1, 1.0]]
    )
    for one, other in pairwise(switching(env, [0] * 30).split(10)):
        assert torch.equal(one, one[:1].expand_as(one))
        assert (one[0] != other[0]).all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bandit", {"arms": [0]}, "arms must be an integer of at least 1"),
        ("bandit", {"arms": [10, 10]}, "not all different"),
        ("bandit", {"arms": [3]}, "'heldout-arms' overlaps with training's in arms"),
        ("bandit", {"prior": [[1, 3]]}, "overlaps with training's in prior"),
        ("bandit", {"prior": [[1]]}, r"pairs of integers \[a, b\], not \(1,\)"),
        ("bandit", {"prior": [[0, 1]]}, "prior must be an integer of at least 1"),
        ("gaussian-bandit", {"prior": [[0.0, 0.0]]}, "deviations of priors must be above 0"),
        ("gaussian-bandit", {"prior": [[0.0]]}, r"pairs \[mean, deviation\], not"),
        ("gaussian-bandit", {"noise": -1.0}, "noise must be at least 0"),
        ("switching-bandit", {"hazard": [[0.03, 0.05]]}, "overlaps with training's in hazard"),
        ("switching-bandit", {"hazard": [[0.5, 1.5]]}, "hazard must be between 0 and 1, not 1.5"),
        ("bandit", {"episodes": 0}, "episodes must be an integer of at least 1"),
    ],
)
def test_invalid_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(name, 1, **options)
