"""The previous action and a start flag as part of the observation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, Space
from torch import Tensor

from rlmem import tree
from rlmem.envs.base import Spaces, Tensors, Transition, VecEnv


class PreviousAction:
    """Adds to the observations of `env` what POPGym's baselines add to them.

    `previous_action` (one leaf for each leaf of the action space) is the action that led here.
    At an episode's start there is none, and as in POPGym's PreviousAction wrapper the action 0
    stands in its place, or the lowest one where 0 is not in the space. As that is an action like
    others, `start` (Discrete(2), int64 [N]) tells the two apart (POPGym's Antialias wrapper).
    Where memory outlives an episode's end (see `Transition.start`) so does the previous action.
    """

    def __init__(self, env: VecEnv) -> None:
        self.env = env
        self.num_envs = env.num_envs
        self.device = env.device
        self.action_space = env.action_space
        previous: Spaces = {_name(key): space for key, space in env.action_space.items()}
        self.observation_space: Spaces = {
            **env.observation_space,
            **previous,
            "start": Discrete(2),
        }
        self._null = {key: self._null_action(space) for key, space in env.action_space.items()}
        self._zeros = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)

    def reset(self, seed: int | Sequence[int] | None = None) -> Tensors:
        """Start a new episode everywhere. An int seeds environment i with `seed + i`."""
        obs = self.env.reset(seed)
        return self._extend(obs, self._null, torch.ones_like(self._zeros))

    def step(self, action: Tensors) -> Transition:
        """Play one action each; a ValueError names the space that an action is not in."""
        step = self._play(action)
        start = step.starts
        taken = {key: action[key].to(null.dtype) for key, null in self._null.items()}
        begun = {key: tree.select(start, null, taken[key]) for key, null in self._null.items()}
        return step._replace(
            obs=self._extend(step.obs, begun, start.long()),
            final_obs=self._extend(step.final_obs, taken, self._zeros),
        )

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def _play(self, action: Tensors) -> Transition:
        return self.env.step(action)

    def _extend(self, obs: Tensors, action: Tensors, start: Tensor) -> Tensors:
        previous = {_name(key): leaf for key, leaf in action.items()}
        return {**obs, **previous, "start": start}

    def _null_action(self, space: Space) -> Tensor:
        """What stands for the action before the first one, [N, ...]."""
        shape = (self.num_envs, *(space.shape or ()))
        if not isinstance(space, Box):
            return torch.zeros(shape, dtype=torch.int64, device=self.device)
        zero = np.zeros(space.shape, space.dtype)
        null = torch.as_tensor(zero if space.contains(zero) else space.low, device=self.device)
        return null.expand(shape)


def _name(key: str) -> str:
    return "previous_" + key
