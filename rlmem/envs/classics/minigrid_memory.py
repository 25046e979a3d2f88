"""MiniGrid-Memory: see an object, walk down a hallway, and find the same object at its end."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers import FilterObservation

from rlmem.envs.base import VecEnv, register
from rlmem.envs.gym_env import vectorize
from rlmem.envs.gym_ids import registered, require
from rlmem.envs.vectorization import EnvFn
from rlmem.errors import UsageError, positive

ID = "minigrid:MiniGrid-MemoryS7-v0"
LAST_OBJECT = 10  # the package's OBJECT_TO_IDX


@register("minigrid-memory")
def make_minigrid_memory(
    num_envs: int,
    size: int = 7,
    random_length: bool = False,
    max_steps: int | None = None,
    vectorization: str = "sync",
    previous_action: bool = False,
    check_obs: bool = True,
    kwargs: dict[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> VecEnv:
    """The package's MemoryEnv (Chevalier-Boisvert et al. 2023, "Minigrid & Miniworld"; extra
    `minigrid`): `size` 7, 9, 11, 13 or 17 is its MiniGrid-MemoryS7-v0 and so on, with
    `random_length` its S13Random and S17Random.

    Observations are the 7 x 7 cells in front of the agent as the package encodes them (`obs.image`,
    uint8 [N, 7, 7, 3]: object, colour, state; walls block the view) and the direction of view
    (`obs.direction`). The mission is left out: its words are always the same. Seven actions: turn
    left, turn right, go forward, and four without use here.

    Reward: 1 - 0.9 k / max_steps for reaching, in step k, the object that was seen at the start; 0
    for reaching the other one, or none in `max_steps` (None: 5 size^2) steps, after which the
    episode is truncated. Without memory every second choice is wrong. `kwargs` are further options
    of the package's environment, such as `agent_view_size`.

    Raises `UsageError` if the package is missing, or if `size` is not an odd number of at least 7.
    """
    require("minigrid", "env 'minigrid-memory'")
    if size < 7 or size % 2 == 0:
        raise UsageError(f"size must be an odd number of at least 7, not {size}")
    if max_steps is not None:
        positive("max_steps", max_steps)
    own = {"size": size, "random_length": random_length, "max_steps": max_steps}
    if clash := own.keys() & (kwargs or {}).keys():
        raise UsageError(f"{min(clash)} is an option of its own, outside of kwargs")
    env_fn = partial(_without_mission, registered(ID, None, {**own, **(kwargs or {})}))
    return vectorize(env_fn, num_envs, vectorization, device, previous_action, check_obs)


def _without_mission(env_fn: EnvFn) -> gym.Env:
    env = FilterObservation(env_fn(), ["image", "direction"])
    # The package declares bytes. The numbers of objects are the largest; few values are symbols,
    # which policies embed, and not brightness.
    assert isinstance(env.observation_space, gym.spaces.Dict)
    shape = env.observation_space["image"].shape
    cells = gym.spaces.Box(0, LAST_OBJECT, shape, np.uint8)
    env.observation_space = gym.spaces.Dict({**env.observation_space, "image": cells})
    return env
