"""Wrapper that adds the previous action and a start flag to observations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, Space
from torch import Tensor

from rlmem import tree
from rlmem.envs.base import Spaces, Tensors, Transition, VecEnv, load_state, reshard, state_of


class PreviousAction:
    """Adds `previous_action` and `start` to the observations of `env`, as POPGym's baselines do.

    `previous_action` (one leaf for each leaf of the action space) is the last action. At the start
    of an episode it is the action 0, as in POPGym's PreviousAction wrapper, or the lowest one if 0
    is not in the space (without a lower bound, the one nearest to 0). As this is a valid action
    too, `start` (Discrete(2), int64 [N]) tells the two cases apart (POPGym's Antialias wrapper). If
    memory outlives the end of an episode (see `Transition.memory_reset`), so does the previous
    action.
    """

    replayable = True

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
        """Start a new episode in every environment. An int seeds environment i with `seed + i`."""
        obs = self.env.reset(seed)
        return self._extend(obs, self._null, torch.ones_like(self._zeros))

    def step(self, action: Tensors) -> Transition:
        """Take one action in each environment; a ValueError names the space of an invalid one."""
        step = self._play(action)
        start = step.memory_reset
        taken = {key: action[key].to(null.dtype) for key, null in self._null.items()}
        begun = {key: tree.select(start, null, taken[key]) for key, null in self._null.items()}
        return step._replace(
            obs=self._extend(step.obs, begun, start.long()),
            final_obs=self._extend(step.final_obs, taken, self._zeros),
        )

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def state_dict(self) -> dict[str, Any] | None:
        """The present episodes; None if those of `env` cannot be saved."""
        return state_of(self.env)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on in the episodes of a `state_dict`; raises the errors of `env`."""
        load_state(self.env, state)

    def reshard(self, states: Sequence[dict[str, Any]], first: int) -> dict[str, Any]:
        """The state of these environments from those of all ranks; raises the errors of `env`."""
        return reshard(self.env, states, first)

    def _play(self, action: Tensors) -> Transition:
        return self.env.step(action)

    def _extend(self, obs: Tensors, action: Tensors, start: Tensor) -> Tensors:
        previous = {_name(key): leaf for key, leaf in action.items()}
        return {**obs, **previous, "start": start}

    def _null_action(self, space: Space) -> Tensor:
        """The placeholder for the action before the first one, [N, ...]."""
        shape = (self.num_envs, *(space.shape or ()))
        if not isinstance(space, Box):
            first = np.broadcast_to(getattr(space, "start", 0), shape).astype(np.int64)
            return torch.as_tensor(first, device=self.device)
        zero = np.zeros(space.shape, space.dtype)
        # The largest float stands for infinity in some libraries.
        lowest = np.where(space.low > -1e30, space.low, np.minimum(space.high, 0))
        null = torch.as_tensor(zero if space.contains(zero) else lowest, device=self.device)
        return null.expand(shape)


def _name(key: str) -> str:
    return "previous_" + key
