"""The environments of the POPGym package itself (Morad et al. 2023), one at a time."""

from __future__ import annotations

import torch

from rlmem.envs.base import VecEnv
from rlmem.envs.gym_env import vectorize
from rlmem.errors import need


def make_package(
    task: str,
    difficulty: str,
    num_envs: int,
    vectorization: str,
    previous_action: bool,
    device: torch.device | str,
    check_obs: bool,
) -> VecEnv:
    """`num_envs` copies of POPGym's `task` (the name of its class without the difficulty)."""
    need("popgym", "env.backend=package", "popgym")
    # Imported here, because other environments need not wait for it.
    import popgym.envs

    # The class itself: the wrappers of `gymnasium.make` would only cost time.
    env_class = getattr(popgym.envs, task + difficulty.capitalize())
    return vectorize(env_class, num_envs, vectorization, device, previous_action, check_obs)
