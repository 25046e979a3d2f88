"""Environments, and what is shared by the tests of their torchrl form."""

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
    """Every kind of leaf, and episodes that end one by one."""
    return GymVecEnv([shown] * 4)


def lockstep(**options: Any) -> VecEnv:
    return envs.make("popgym-repeat", num_envs=4, **options)


def noted() -> VecEnv:
    return lockstep(previous_action=True)


def echo() -> VecEnv:
    return GymVecEnv([partial(Echo, EVERY_KIND)] * 2)


def actions(env: VecEnv, steps: int) -> list[Tensors]:
    """Random actions of environments with one discrete action."""
    space = env.action_space["action"]
    assert isinstance(space, spaces.Discrete)
    return [{"action": torch.randint(0, int(space.n), (env.num_envs,))} for _ in range(steps)]


def replay(taken: list[Tensors]) -> Callable[[TensorDictBase], TensorDictBase]:
    """A policy that takes these actions."""
    rest = iter(taken)
    return lambda tensordict: tensordict.update(next(rest))


def play(env: VecEnv, taken: list[Tensors], seed: int) -> tuple[list[Tensors], list[Transition]]:
    """The bare environment's rollout: what was seen before each action, and what came of it."""
    obs = env.reset(seed)
    seen, steps = [], []
    for action in taken:
        seen.append(obs)
        steps.append(env.step(action))
        obs = steps[-1].obs
    return seen, steps
