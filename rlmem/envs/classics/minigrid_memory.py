"""MiniGrid-Memory: see an object, walk down a hallway, and find the same object at its end."""

from __future__ import annotations

from functools import partial

import gymnasium as gym
import torch
from gymnasium.wrappers import FilterObservation

from rlmem.envs.base import VecEnv, register
from rlmem.envs.gym_env import EnvFn, registered, require, vectorize
from rlmem.errors import UsageError, positive

ID = "minigrid:MiniGrid-MemoryS7-v0"


@register("minigrid-memory")
def make_minigrid_memory(
    num_envs: int,
    size: int = 7,
    random_length: bool = False,
    max_steps: int | None = None,
    vectorization: str = "sync",
    previous_action: bool = False,
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
    episode is truncated. Without memory every second choice is wrong.

    Raises `UsageError` if the package is missing, or if `size` is not an odd number of at least 7.
    """
    require("minigrid", "env 'minigrid-memory'")
    if size < 7 or size % 2 == 0:
        raise UsageError(f"size must be an odd number of at least 7, not {size}")
    if max_steps is not None:
        positive("max_steps", max_steps)
    kwargs = {"size": size, "random_length": random_length, "max_steps": max_steps}
    env_fn = partial(_without_mission, registered(ID, None, kwargs))
    return vectorize(env_fn, num_envs, vectorization, device, previous_action)


def _without_mission(env_fn: EnvFn) -> gym.Env:
    return FilterObservation(env_fn(), ["image", "direction"])
