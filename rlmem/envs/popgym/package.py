"""The environments of the POPGym package itself (Morad et al. 2023), one at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from rlmem.envs.base import VecEnv
from rlmem.envs.gym_env import vectorize
from rlmem.envs.info_mask import merge
from rlmem.envs.popgym import legal
from rlmem.envs.vectorization import EnvFn
from rlmem.errors import need

VIEWED = 2  # the value of an opened square in MineSweeper's hidden grid


def make_package(
    task: str,
    difficulty: str,
    num_envs: int,
    vectorization: str,
    previous_action: bool,
    device: torch.device | str,
    check_obs: bool,
    action_mask: bool = False,
) -> VecEnv:
    """`num_envs` copies of POPGym's `task` (the name of its class without the difficulty).

    `action_mask` offers the legal actions as a mask; only the tasks in `LEGAL` have one.
    """
    need("popgym", "env.backend=package", "popgym")
    # Imported here, because other environments need not wait for it.
    import popgym.envs

    # The class itself: the wrappers of `gymnasium.make` would only cost time.
    env_fn: EnvFn = getattr(popgym.envs, task + difficulty.capitalize())
    if action_mask:
        env_fn = partial(WithMask, env_fn, task)
    return vectorize(env_fn, num_envs, vectorization, device, previous_action, check_obs)


def _not_matched(env: Any) -> NDArray[np.bool_]:
    """Concentration: the cards that are not face up, but for an unmatched pair of the last turn."""
    legal = np.ones(len(env.deck), bool)
    legal[env.deck["face_up_idx"] + env.deck["in_play_idx"]] = False
    return legal


# The legal actions of a task, from its hidden state.
LEGAL: dict[str, Callable[[Any], NDArray[np.bool_]]] = {
    "Battleship": lambda env: env.guesses == 0,
    "MineSweeper": lambda env: env.hidden_grid != VIEWED,
    "Concentration": _not_matched,
}


class WithMask(gym.ObservationWrapper):
    """An environment of POPGym with a mask of its legal actions in the observations."""

    def __init__(self, env_fn: EnvFn, task: str) -> None:
        super().__init__(env_fn())
        self.find_legal = LEGAL[task]
        actions: Any = self.action_space
        one = isinstance(actions, Discrete)
        places = (int(actions.n),) if one else tuple(actions.nvec.tolist())
        self.observation_space = legal.space(self.env.observation_space, places)

    def observation(self, observation: Any) -> dict[str, Any]:
        """The observation with its mask."""
        return merge(observation, self.find_legal(self.env))
