"""Auxiliary losses: hand-computed values, starts, kinds of leaves, and the memory they train."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlmem import envs
from rlmem.algos.ppo import PPO
from rlmem.errors import UsageError
from rlmem.policies import ActorCritic
from rlmem.policies.forecast import Forecast

BOX = gym.spaces.Box(-9, 9, (2,), np.float32)
SPACES = {
    "card": gym.spaces.Discrete(4, start=1),
    "pair": gym.spaces.MultiDiscrete([2, 3]),
    "speed": BOX,
    "image": gym.spaces.Box(0, 255, (3, 8, 8), np.uint8),
    "previous_action": gym.spaces.Discrete(2),
}
ACTIONS = {"action": gym.spaces.Discrete(2)}


def policy(spaces: dict[str, gym.Space] = SPACES, **options: float) -> ActorCritic:
    return ActorCritic(spaces, ACTIONS, core="gru", hidden_size=8, normalize_obs=False, **options)


def forecast(agent: ActorCritic) -> Forecast:
    assert agent.forecast is not None
    return agent.forecast


def test_losses_by_hand() -> None:
    heads = forecast(policy(predict_obs=1.0))
    for layer in (heads.observation, heads.reward):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    with torch.no_grad():
        # The logits of the card come first: 3 has the probability 1 / 2.
        heads.observation.bias[:4] = torch.tensor([0.0, 0.0, math.log(3), 0.0])
    obs = {
        "card": torch.tensor([[1, 3, 1, 3]]),
        "pair": torch.zeros(1, 4, 2, dtype=torch.int64),
        "speed": torch.tensor([[[9.0, 9.0], [1.0, 2.0], [9.0, 9.0], [0.0, 0.0]]]),
    }
    start = torch.tensor([[True, False, True, False]])
    action, reward = {"action": torch.zeros(1, 4, dtype=torch.int64)}, torch.full((1, 4), 2.0)
    of_obs, of_reward = heads.losses(torch.randn(1, 4, 8), action, obs, reward, start)
    # The third observation begins an episode: nothing before it could predict it.
    each = math.log(2) + math.log(2) + math.log(3)
    assert of_obs.item() == pytest.approx((each + (0.5 * (1 + 4) / 2) + each) / 3)
    assert of_reward.item() == pytest.approx(2.0)


def test_images_and_previous_actions_are_left_out() -> None:
    heads = forecast(policy(predict_reward=1.0))
    assert heads.observation.out_features == 4 + 2 + 3 + 2
    assert policy().forecast is None
    with pytest.raises(UsageError, match="need a discrete leaf or a vector"):
        policy({"image": SPACES["image"]}, predict_obs=1.0)


def test_actions_do_not_depend_on_the_heads() -> None:
    agent = policy(predict_obs=1.0)
    obs = {key: torch.zeros(3, *space.shape).to(torch.int64) for key, space in SPACES.items()}
    obs |= {"card": torch.ones(3, dtype=torch.int64), "speed": torch.randn(3, 2)}
    given = obs, agent.initial_state(3), torch.ones(3, dtype=torch.bool)
    before = agent.act(*given).outputs()["logits"]
    for weight in forecast(agent).parameters():
        torch.nn.init.normal_(weight)
    assert agent.act(*given).outputs()["logits"].equal(before)


def test_they_teach_the_memory_what_comes_next() -> None:
    """Cards repeat after three steps, and a reward says whether the action is the last card."""
    agent = policy({"card": gym.spaces.Discrete(2)}, predict_obs=1.0)
    optimizer = torch.optim.Adam(agent.parameters(), 1e-2)
    start = torch.zeros(64, 12, dtype=torch.bool)
    start[:, 0] = True
    for _ in range(150):
        card, action = torch.randint(2, (64, 3)).repeat(1, 4), torch.randint(2, (64, 12))
        reward = torch.zeros(64, 12)
        reward[:, 1:] = (action[:, 1:] == card[:, :-1]) * 2.0 - 1
        obs = {"card": card}
        features = agent.row(obs, agent.initial_state(64), start).features
        losses = forecast(agent).losses(features, {"action": action}, obs, reward, start)
        optimizer.zero_grad()
        sum(losses, torch.zeros(())).backward()
        optimizer.step()
    # Two of the eleven next cards are unknown.
    assert losses[0].item() < 2 / 11 * math.log(2) + 0.05
    assert losses[1].item() < 0.1


def test_observations_are_predicted_as_they_are_normalised() -> None:
    env = envs.make("popgym-noisy-position-only-cartpole", num_envs=8)
    agent = ActorCritic(
        env.observation_space, env.action_space, core="gru", hidden_size=8, predict_obs=0.5,
        normalize_obs=True,
    )  # fmt: skip
    ppo = PPO(env, agent, list(range(8)), num_steps=16, predict_obs=0.5)
    metrics = ppo.iterate(0.0)
    assert 0 < metrics["obs_loss"] < 3
    assert math.isfinite(metrics["reward_loss"])
