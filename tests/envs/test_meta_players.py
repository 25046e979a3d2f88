"""Reference players: indices, posteriors and planning, checked by hand or simulation."""

from __future__ import annotations

from itertools import pairwise, product
from math import log, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats
from torch import Tensor

from rlmem import envs, tree
from rlmem.envs.meta.bandit_players import (
    UCB1,
    BetaThompson,
    FadingThompson,
    GaussThompson,
    Gittins,
    Record,
    gittins,
)
from rlmem.envs.meta.planning import finite_horizon
from rlmem.envs.meta.players import Oracle, Player, RandomPlayer
from rlmem.envs.meta.posterior_sampling import PSRL
from rlmem.envs.meta.reference import references
from tests.envs import distribution_asserts


def make(name: str, num_envs: int, **options: Any) -> Any:
    env = envs.make(f"meta-{name}", num_envs=num_envs, **options)
    env.reset(1)
    return env


def trial(env: Any, player: Player, steps: int, seed: int = 5) -> tuple[Tensor, list[Any]]:
    """Rewards [N, steps], and the player's state before each action."""
    obs, state = env.reset(seed), player.initial_state(env.num_envs)
    start, rewards, states = torch.ones(env.num_envs, dtype=torch.bool), [], []
    for _ in range(steps):
        choice = player.act(obs, state, start)
        step = env.step(choice.action)
        rewards.append(step.reward)
        states.append(tree.map(Tensor.clone, choice.state))
        obs, state, start = step.obs, choice.state, step.memory_reset
    return torch.stack(rewards, 1), states


def records(won: list[int], lost: list[int], rows: int) -> Record:
    paid = torch.tensor([won] * rows).float()
    return Record(paid + torch.tensor([lost] * rows), paid)


def test_records_cover_one_trial() -> None:
    env = make("bandit", 4, episodes=6, arms=[3], heldout_arms=[2])
    player = UCB1(env.env, env.env.distribution)
    rewards, states = trial(env, player, 12)
    for first in (0, 6):
        assert not states[first].pulls.any()
        # Each arm has been pulled once.
        assert torch.equal(states[first + 3].pulls, torch.ones(4, 3))
        assert torch.equal(states[first + 3].paid, rewards[:, first : first + 3])
        assert torch.equal(states[first + 5].pulls.sum(1), torch.full((4,), 5.0))
        assert torch.equal(states[first + 5].paid.sum(1), rewards[:, first : first + 5].sum(1))


def test_ucb1_index_by_hand() -> None:
    env = make("bandit", 1, arms=[3], heldout_arms=[2])
    index = UCB1(env.env, env.env.distribution, 0.5).index(records([3, 1, 0], [1, 0, 0], 1))
    bonus = [sqrt(2 * log(5) / 4) / 2, sqrt(2 * log(5)) / 2]
    np.testing.assert_allclose(index[0], [0.75 + bonus[0], 1 + bonus[1], np.inf], rtol=1e-6)


def test_actions_that_are_no_arms_are_never_pulled() -> None:
    env = make("bandit", 50, split="heldout-arms", heldout_arms=[2], episodes=20)
    names = references(env)
    assert [*names] == ["random", "ucb", "thompson", "gittins", "oracle"]
    for name, player in names.items():
        _, states = trial(env, player, 19)
        if isinstance(states[0], Record):
            assert not states[-1].pulls[:, 2:].any(), name
            assert (states[-1].pulls[:, :2].sum(1) == 18).all()


@pytest.mark.parametrize("prior", [[1, 1], [2, 5]])
def test_thompson_samples_the_posterior(prior: list[int]) -> None:
    env = make("bandit", 4000, arms=[2], heldout_arms=[3], prior=[prior], heldout_prior=[[9, 9]])
    torch.manual_seed(0)
    index = BetaThompson(env.env, env.env.distribution).index(records([7, 0, 0], [2, 0, 0], 4000))
    for arm, (won, lost) in enumerate([(7, 2), (0, 0)]):
        posterior = stats.beta(prior[0] + won, prior[1] + lost)
        distribution_asserts.assert_follows(
            torch.as_tensor(posterior.cdf(index[:, arm].numpy())), "uniform"
        )


def test_thompson_samples_the_posterior_of_means() -> None:
    env = make(
        "gaussian-bandit",
        4000,
        arms=[2],
        heldout_arms=[1],
        prior=[[1.0, 2.0]],
        heldout_prior=[[0.0, 1.0]],
        noise=0.5,
    )
    torch.manual_seed(0)
    pulls, paid = torch.tensor([[3.0, 0.0]] * 4000), torch.tensor([[2.4, 0.0]] * 4000)
    index = GaussThompson(env.env, env.env.distribution).index(Record(pulls, paid))
    # The precisions 1/4 and 3 * 4 are added.
    mean = (1 / 4 + 2.4 * 4) / 12.25
    distribution_asserts.assert_follows((index[:, 0] - mean) * sqrt(12.25), "norm")
    distribution_asserts.assert_follows((index[:, 1] - 1) / 2, "norm")


def test_payouts_before_a_switch_are_discounted() -> None:
    hazard = {"hazard": [[0.25, 0.2500001]], "heldout_hazard": [[0.5, 0.6]]}
    env = make("switching-bandit", 2, arms=[4], **hazard)
    rewards, states = trial(env, FadingThompson(env.env, env.env.distribution), 3)
    torch.testing.assert_close(states[2].pulls.sum(1), torch.full((2,), 1.75))
    torch.testing.assert_close(states[2].paid.sum(1), 0.75 * rewards[:, 0] + rewards[:, 1])


def test_gittins_indices_by_hand() -> None:
    """One remaining pull: the chance. Two: the x with 2 x = 1/2 + x/2 + (1/2) 2/3."""
    table = gittins(3, 1, 1)
    chances = [[(1 + s) / (2 + s + f) for f in range(3)] for s in range(3)]
    np.testing.assert_allclose(table[1], chances, atol=1e-6)
    assert table[2, 0, 0] == pytest.approx(5 / 9, abs=1e-4)
    # Beta(2, 1) after a win: 2 x = 2/3 (1 + 3/4) + x / 3.
    assert table[2, 1, 0] == pytest.approx(0.7, abs=1e-4)
    # Exploration is worth more with more remaining pulls.
    left = gittins(30, 1, 1)[1:, 0, 0]
    assert (left.diff() > 0).all()
    assert gittins(2, 3, 1)[1, 0, 0] == pytest.approx(0.75, abs=1e-6)


def best_of_two(left: int, counts: tuple[int, int, int, int]) -> float:
    """The optimal return on two Bernoulli arms with uniform priors, by exhaustive search."""
    if left == 0:
        return 0.0
    found = []
    for arm in (0, 2):
        won, lost = counts[arm], counts[arm + 1]
        chance = (1 + won) / (2 + won + lost)
        after = [tuple(n + (i == arm + k) for i, n in enumerate(counts)) for k in (0, 1)]
        wins, loses = (best_of_two(left - 1, each) for each in after)  # type: ignore[arg-type]
        found.append(chance * (1 + wins) + (1 - chance) * loses)
    return max(found)


def test_gittins_is_nearly_optimal_on_two_arms() -> None:
    env = make("bandit", 20_000, arms=[2], heldout_arms=[1], episodes=6)
    rewards, _ = trial(env, Gittins(env.env, env.env.distribution), 6)
    assert abs(float(rewards.sum(1).mean()) - best_of_two(6, (0, 0, 0, 0))) < 0.04


def test_order_of_the_bandit_players() -> None:
    """The order of Duan et al. 2016 with 10 arms and 100 pulls (table 1)."""
    env = make("bandit", 400)
    torch.manual_seed(0)
    mean = {
        name: float(trial(env, player, 100)[0].sum(1).mean())
        for name, player in references(env).items()
    }
    assert mean["random"] < mean["ucb"] < mean["thompson"] < mean["gittins"] < mean["oracle"]
    assert mean["random"] == pytest.approx(50, abs=1.5)
    # The expected maximum of 10 uniform numbers is 10/11.
    assert mean["oracle"] == pytest.approx(100 * 10 / 11, abs=1.5)


def test_random_player_is_uniform() -> None:
    env = make("bandit", 1)
    env.action_space = {
        "action.0": spaces.Discrete(3),
        "action.1": spaces.MultiDiscrete([2, 4]),
        "action.2": spaces.MultiBinary(2),
        "action.3": spaces.Box(np.array([-1, 2], np.float32), np.array([1, 6], np.float32)),
        "action.4": spaces.Box(-np.inf, np.inf, (1,)),
    }
    torch.manual_seed(0)
    player = RandomPlayer(env)
    action = player.act({}, (), torch.ones(4000, dtype=torch.bool)).action
    distribution_asserts.assert_uniform(action["action.0"], 3)
    for column, size in ((action["action.1"][:, 0], 2), (action["action.1"][:, 1], 4)):
        distribution_asserts.assert_uniform(column, size)
    distribution_asserts.assert_uniform(action["action.2"][:, 0] * 2 + action["action.2"][:, 1], 4)
    distribution_asserts.assert_follows((action["action.3"][:, 0] + 1) / 2, "uniform")
    distribution_asserts.assert_follows((action["action.3"][:, 1] - 2) / 4, "uniform")
    distribution_asserts.assert_follows(action["action.4"], "norm")


def test_planning_finds_the_best_of_all_policies() -> None:
    """Compares with all 4^3 policies for two states, two actions and three steps."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(20, 2, 2, 2, generator=generator)
    # The missing probability ends the episode.
    transition = 0.9 * weight / weight.sum(-1, keepdim=True)
    reward = torch.randn(20, 2, 2, generator=generator)
    plan, value = finite_horizon(transition, reward, 3)
    best = torch.full((20, 2), -torch.inf)
    rows = torch.arange(2)
    for choices in product(product(range(2), repeat=2), repeat=3):
        total = torch.zeros(20, 2)
        for choice in choices[::-1]:
            way = transition[:, rows, list(choice)]
            total = reward[:, rows, list(choice)] + (way @ total[..., None])[..., 0]
        best = best.maximum(total)
    torch.testing.assert_close(value, best)
    last = reward.argmax(-1)
    assert torch.equal(plan[:, 2], last)


def test_posterior_sampling_counts_observations() -> None:
    env = make("tabular-mdp", 8, states=3, actions=2, length=4, episodes=3)
    player = PSRL(env.env, env.env.distribution)
    obs, state = env.reset(2), player.initial_state(8)
    start = torch.ones(8, dtype=torch.bool)
    led, pulls = torch.zeros(8, 3, 2, 3), torch.zeros(8, 3, 2)
    paid, rows = torch.zeros(8, 3, 2), torch.arange(8)
    for t in range(12):
        choice = player.act(obs, state, start)
        torch.testing.assert_close(choice.state.led, led)
        torch.testing.assert_close(choice.state.pulls, pulls)
        torch.testing.assert_close(choice.state.paid, paid)
        assert (choice.state.t == t % 4).all()
        step = env.step(choice.action)
        before, action = obs["obs"], choice.action["action"]
        # The state after the last step of an episode is not observed.
        led[rows, before, action, step.final_obs["obs"]] += float(t % 4 != 3)
        pulls[rows, before, action] += 1
        paid[rows, before, action] += step.reward
        obs, state, start = step.obs, choice.state, step.memory_reset
    assert start.all()
    assert not player.act(obs, state, start).state.pulls.any()


def test_posterior_sampling_learns_the_process() -> None:
    env = make("tabular-mdp", 60, states=3, actions=2, length=5, episodes=60)
    torch.manual_seed(0)
    mean = {
        name: trial(env, player, 300)[0].unflatten(1, (60, 5)).sum(2).mean(0)
        for name, player in references(env).items()
    }
    assert [*mean] == ["random", "psrl", "oracle"]
    first, last = (mean["psrl"][rows].mean() for rows in (slice(3), slice(-20, None)))
    best, chance = (mean[name].mean() for name in ("oracle", "random"))
    assert chance < first < last
    assert (best - last) < 0.15 * (best - chance)


def test_the_oracle_plans_at_the_start_of_each_trial() -> None:
    env = make("frozen-lake", 30, episodes=2)
    _, plans = trial(env, Oracle(env.env, env.env.distribution), 60)
    changed = [not torch.equal(a, b) for a, b in pairwise(plans)]
    assert sum(changed) >= 3
    rewards, _ = trial(env, Oracle(env.env, env.env.distribution), 60)
    # Crossing the lake takes six steps or a few more.
    assert (rewards.sum(1) >= 4).all()


def test_environments_without_tasks_have_only_the_random_player() -> None:
    assert [*references(envs.make("popgym-bandit", num_envs=2))] == ["random"]
