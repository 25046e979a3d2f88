"""Action masks in the infos of Gymnasium environments, moved into the observations.

By Gymnasium's convention an environment may give `info["action_mask"]` at each reset and step. The
wrapper `InfoMask` makes it a part of the observation, so that it is stored and checked like one:
`action_mask`, beside the parts of a Dict, or beside `observation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Space, Tuple

from rlmem.envs.seeding import kept_random_state
from rlmem.envs.spaces import FlatSpace
from rlmem.envs.vectorization import EnvFn
from rlmem.errors import UsageError
from rlmem.spaces.action_mask import DISCRETE, NAME

OBSERVATION = "observation"


class InfoMask(gym.Wrapper):
    """Adds `info["action_mask"]`, of the space `mask`, to the observations of an environment.

    Without one at the end of an episode, no action is legal there; elsewhere that is a UsageError.
    """

    def __init__(self, env: gym.Env, mask: Space) -> None:
        super().__init__(env)
        self.mask = mask
        self.observation_space = with_mask(env.observation_space, mask)

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(**options)
        return self._merged(obs, info, False), info

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        ended = bool(np.any(terminated) or np.any(truncated))
        return self._merged(obs, info, ended), reward, terminated, truncated, info

    def _merged(self, obs: Any, info: Mapping[str, Any], ended: bool) -> Any:
        mask = info.get(NAME)
        if mask is None and not ended:
            raise UsageError(f"info has no {NAME!r} here, and had one at the first reset")
        return merge(obs, zeros(self.mask) if mask is None else mask)


def with_mask(space: Space, mask: Space) -> Dict:
    """The space of observations with a mask; see `merge`."""
    parts = space.spaces if isinstance(space, Dict) else {OBSERVATION: space}
    return Dict({**parts, NAME: mask})


def merge(obs: Any, mask: Any) -> dict[str, Any]:
    """An observation with its mask: a further part of a dict, or beside `observation`."""
    parts = obs if isinstance(obs, Mapping) else {OBSERVATION: obs}
    return {**parts, NAME: _legal(mask)}


def may_offer_mask(env: gym.Env) -> bool:
    """Whether a mask in the infos would be used: there are discrete actions, and no other mask."""
    observations = FlatSpace("obs", env.observation_space).spaces
    actions = FlatSpace("action", env.action_space).spaces
    masked = any(NAME in key.split(".") for key in observations)
    return not masked and any(isinstance(space, DISCRETE) for space in actions.values())


def first_info(env: gym.Env) -> Mapping[str, Any]:
    """The infos of a reset of `env`, which shows what it offers there; nothing if it fails.

    The global random generators are left as they were.
    """
    with kept_random_state():
        try:
            _, info = env.reset(seed=0)
        except Exception:
            return {}  # the first true reset says what is wrong
    return info if isinstance(info, Mapping) else {}


def add_masks(env_fns: Sequence[EnvFn], mask: Space) -> list[EnvFn]:
    """Factories of the same environments with `InfoMask`."""
    return [partial(_masked, env_fn, mask) for env_fn in env_fns]


def _masked(env_fn: EnvFn, mask: Space) -> gym.Env:
    return InfoMask(env_fn(), mask)


def mask_space(mask: Any) -> Space:
    """The space of masks like this one: an array, or a dict or tuple of them."""
    if isinstance(mask, Mapping):
        return Dict({key: mask_space(part) for key, part in mask.items()})
    if isinstance(mask, tuple):
        return Tuple([mask_space(part) for part in mask])
    return Box(0, 1, np.shape(mask), np.uint8)


def _legal(mask: Any) -> Any:
    if isinstance(mask, Mapping):
        return {key: _legal(part) for key, part in mask.items()}
    if isinstance(mask, tuple):
        return tuple(_legal(part) for part in mask)
    return (np.asarray(mask) != 0).astype(np.uint8)


def zeros(space: Space) -> Any:
    """The zeros of a space: of a Box, or a Dict or Tuple of such spaces."""
    if isinstance(space, Dict):
        return {key: zeros(part) for key, part in space.items()}
    if isinstance(space, Tuple):
        return tuple(zeros(part) for part in space)
    return np.zeros(space.shape or (), space.dtype)
