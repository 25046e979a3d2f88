"""Saliency: exact zeros, gradients of one scan, preferences of all algorithms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rlmem import algos
from rlmem.diagnose.trained import Budget, saliency
from rlmem.diagnose.trained.report import shaded
from rlmem.envs.seeding import eval_seeds
from rlmem.policies import ActorCritic
from tests.data.counting import Counting
from tests.diagnose.trained.agents import subject


def slopes(agent: Any, limit: int = 12, greedy: bool = True) -> saliency.Slopes:
    env = agent.make_env(4)
    return saliency.slopes(agent.policy, env, eval_seeds(0, 4), limit, limit, greedy)


@pytest.mark.parametrize("frames", [1, 3])
def test_a_frame_stack_has_no_slope_beyond_its_frames(frames: int) -> None:
    agent = subject("frame_stack", env="popgym-repeat", core_options={"frames": frames})
    for norms in slopes(agent).norms.values():
        lag = np.arange(12)[:, None] - np.arange(12)
        seen = (lag >= 0) & (lag < frames)
        assert (norms[:, ~seen] == 0).all()
        assert (norms[:, seen] > 0).all()


@pytest.mark.parametrize("core", ["gru", "ffm", "transformer_xl", "gated_deltanet"])
def test_no_slope_passes_the_start_of_an_episode(core: str) -> None:
    lengths = [3, 5, 11]
    env = Counting(lengths, [False] * 3)
    policy = ActorCritic(env.observation_space, env.action_space, core=core, hidden_size=8)
    found = saliency.slopes(policy, env, [1, 3, 5], 20, 20, True)
    assert found.steps == list(range(11))  # until the last row has ended
    decision, observation = np.arange(11)[:, None], np.arange(11)
    for row, length in enumerate(lengths):
        same = (decision // length == observation // length) & (observation <= decision)
        assert found.age[row].tolist() == [t % length for t in range(11)]
        assert found.over[row].tolist() == [t >= length for t in range(11)]
        for norms in found.norms.values():
            assert (norms[row][~same] == 0).all()
            assert (norms[row][same] > 0).mean() > 0.9


def test_slopes_are_gradients_of_a_scan() -> None:
    agent = subject("gru", env="popgym-repeat")
    found = slopes(agent, limit=6)
    # The suits do not depend on the actions.
    env, policy = agent.make_env(4), agent.policy
    rows = [env.reset(eval_seeds(0, 4))]
    rows += [env.step({"action": torch.zeros(4, dtype=torch.int64)}).obs for _ in range(5)]
    obs = {"obs": torch.stack([each["obs"] for each in rows], dim=1)}
    start = torch.zeros(4, 6, dtype=torch.bool)
    start[:, 0] = True
    x = policy.encoder.encode_row(obs, start).detach().requires_grad_()
    features, _ = policy.core.scan(x, policy.core.initial_state(4), start)
    actor = policy.actor(features)
    for name, made in (
        ("action", actor.log_prob(actor.mode())),
        ("value", policy.critic(features)),
    ):
        for t in range(6):
            (slope,) = torch.autograd.grad(made[:, t].sum(), x, retain_graph=True)
            np.testing.assert_allclose(
                found.norms[name][:, t], slope.norm(dim=-1).numpy(), rtol=1e-4, atol=1e-6
            )


def test_shares_are_over_the_decisions_with_an_observation_at_the_lag() -> None:
    # Two rows: the first ends after 2 steps, and its third decision does not count.
    norms = np.zeros((2, 3, 3))
    norms[0, 0, 0] = 1
    norms[0, 1] = [3, 1, 0]  # by observation: lags 1 and 0
    norms[0, 2] = [9, 9, 9]
    norms[1, 0, 0] = 0  # all 0: left out
    norms[1, 1] = [1, 1, 0]
    norms[1, 2] = [1, 2, 5]
    over = np.array([[False, False, True], [False, False, False]])
    totals = saliency.Totals(4)
    totals.add(saliency.Slopes([0, 1, 2], {}, np.zeros((2, 3)), over), norms)
    found = totals.summary()
    assert found["count"] == [4, 3, 1]
    assert found["flat"] == 1
    # Steps 0, 1, 1, 2: the largest at lags 0, 1, 0 (the first of equal ones), 0.
    assert found["largest"] == [3 / 4, 1 / 3, 0]
    assert found["past"] == [0, 1, 0]
    assert found["share"] == pytest.approx(
        [(1 + 1 / 4 + 1 / 2 + 5 / 8) / 4, (3 / 4 + 1 / 2 + 1 / 4) / 3, 1 / 8]
    )
    assert found["last"] == [[1, 1.0]]
    assert found["heat"] == [[1, 0, 0], [0.375, 0.625, 0], [0.625, 0.25, 0.125]]


@pytest.mark.parametrize("algo", algos.registry.names())
def test_a_preference_is_a_log_probability_or_an_advantage(algo: str) -> None:
    agent = subject(algo=algo)
    env, policy = agent.make_env(3), agent.policy
    start = torch.ones(3, dtype=torch.bool)
    act = policy.act(env.reset([1, 3, 5]), policy.initial_state(3), start, True)
    every = [act.preference({"action": torch.full((3,), action)}) for action in range(4)]
    preferences = torch.stack(every)
    outputs = act.outputs()
    if "q" in outputs:
        q = outputs["q"]
        torch.testing.assert_close(preferences.T, q - q.mean(dim=1, keepdim=True))
    else:
        torch.testing.assert_close(preferences.exp().sum(0), torch.ones(3))
    assert torch.equal(preferences.argmax(0), act.action["action"])


@pytest.mark.parametrize("algo", ["ppo", "sac", "amago", "dt"])
def test_a_preference_of_a_continuous_action_is_highest_at_the_mean(algo: str) -> None:
    options = {"episodes": 1, "length": 4}
    agent = subject(algo=algo, env="meta-point-robot", options=options, hidden={})
    env, policy = agent.make_env(3), agent.policy
    start = torch.ones(3, dtype=torch.bool)
    obs, state = env.reset([1, 3, 5]), policy.initial_state(3)
    act = policy.act(obs, state, start, False)
    mean, log_std = act.outputs()["mean"], act.outputs()["log_std"]
    # The density of the squashed Gaussian, from its definition.
    y = act.action["action"].double().clamp(-1 + 1e-6, 1 - 1e-6)
    normal = torch.distributions.Normal(mean.double(), log_std.double().exp())
    wanted = (normal.log_prob(y.atanh()) - (1 - y.square()).log()).sum(-1)
    torch.testing.assert_close(act.preference(act.action).double(), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("algo", ["sac", "amago"])
def test_the_value_of_soft_critics_has_a_gradient(algo: str) -> None:
    agent = subject(algo=algo)
    env, policy = agent.make_env(3), agent.policy
    start = torch.ones(3, dtype=torch.bool)
    value = policy.value(env.reset([1, 3, 5]), policy.initial_state(3), start)
    assert value.shape == (3,)
    assert value.requires_grad


def test_the_heat_map_of_the_terminal_shows_the_lags() -> None:
    heat = np.eye(3)[:, ::-1].copy()
    assert shaded(heat)[:3] == ["0 |  █", "1 | █", "2 |█"]
    long = shaded(np.ones((40, 200)))
    assert len(long) == 18
    assert all(len(line) <= 75 for line in long)


def test_budgets_limit_decisions() -> None:
    found = saliency.analyse(subject(env="popgym-repeat"), Budget(episodes=3, steps=9, decisions=4))
    assert found["action"]["decisions"] == [0, 3, 5, 8]
    assert sum(found["action"]["largest"][:1]) <= 1
