"""Shared code of the tests of `TorchRLEnv`: environments, random actions and plain rollouts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gymnasium import spaces
from tensordict import TensorDictBase

from rlmem import envs
from rlmem.envs.base import Tensors, Transition, VecEnv
from rlmem.envs.gym_env import GymVecEnv
from tests.envs.test_gym_env import shown
from tests.envs.toys import EVERY_KIND, Echo

ONE_HOT = {"categorical_action_encoding": False, "categorical_obs_encoding": False}
SEED = 7


def irregular() -> VecEnv:
    """An environment with every kind of leaf, whose episodes end at different times."""
    return GymVecEnv([shown] * 4)


def lockstep(**options: Any) -> VecEnv:
    """An environment whose episodes all end at the same time."""
    return envs.make("popgym-repeat", num_envs=4, **options)


def with_previous_action() -> VecEnv:
    """The same, with the previous action as an observation."""
    return lockstep(previous_action=True)


def echo() -> VecEnv:
    """An environment whose observations are its actions, of every kind of leaf."""
    return GymVecEnv([partial(Echo, EVERY_KIND)] * 2)


def actions(env: VecEnv, steps: int) -> list[Tensors]:
    """Random actions for an environment with one discrete action."""
    space = env.action_space["action"]
    assert isinstance(space, spaces.Discrete)
    return [{"action": torch.randint(0, int(space.n), (env.num_envs,))} for _ in range(steps)]


def replay(taken: list[Tensors]) -> Callable[[TensorDictBase], TensorDictBase]:
    """A policy that takes the actions `taken`, one per call."""
    rest = iter(taken)
    return lambda tensordict: tensordict.update(next(rest))


def play(env: VecEnv, taken: list[Tensors], seed: int) -> tuple[list[Tensors], list[Transition]]:
    """A plain rollout: the observations before each action, and the transitions."""
    obs = env.reset(seed)
    before, steps = [], []
    for action in taken:
        before.append(obs)
        steps.append(env.step(action))
        obs = steps[-1].obs
    return before, steps
