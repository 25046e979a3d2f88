"""Texts for observations, actions and hidden state: the environment's own, or numbers."""

from __future__ import annotations

import torch
from gymnasium.spaces import Discrete

from rlmem.envs.base import Tensors, VecEnv, find_wrapped
from rlmem.envs.tensor_env import TensorEnv

# Maximum number of printed numbers per leaf, and of actions with printed names.
MAX_LISTED = 12


class Describer:
    """Describes the observations, actions and hidden state of a single environment."""

    def __init__(self, env: VecEnv) -> None:
        self.action_space = env.action_space
        # Only a `TensorEnv` has its own texts; it may be below wrappers.
        self.env: TensorEnv | None = find_wrapped(env, TensorEnv)

    def obs(self, obs: Tensors) -> str:
        """The text of an observation [1, ...]."""
        if self.env is None:
            return numbers(obs)
        return self.env.describe_obs({key: obs[key] for key in self.env.observation_space}, 0)

    def action(self, action: Tensors) -> str:
        """The text of an action [1, ...]."""
        return numbers(action) if self.env is None else self.env.describe_action(action, 0)

    def hidden(self) -> str:
        """The text of the current hidden state; empty if the environment has none."""
        return "" if self.env is None else self.env.reveal(0)

    def action_names(self) -> dict[int, str]:
        """The actions with their names; empty if they are many or not discrete."""
        (key, space), *more = self.action_space.items()
        if more or not isinstance(space, Discrete) or space.n > MAX_LISTED:
            return {}
        return {i: self.action({key: torch.tensor([i])}) for i in range(int(space.n))}


def numbers(leaves: Tensors) -> str:
    """The first numbers of each leaf [1, ...]; size and mean of an image."""
    parts = []
    for key, leaf in leaves.items():
        flat = leaf[0].flatten().tolist()
        text = " ".join(f"{number:.3g}" for number in flat[:MAX_LISTED])
        if leaf.dim() > 2:
            size = "x".join(map(str, leaf.shape[1:]))
            text = f"{size}, mean {sum(flat) / len(flat):.3g}"
        elif len(flat) > MAX_LISTED:
            text += f" .. ({len(flat)})"
        parts.append(text if len(leaves) == 1 else f"{key.removeprefix('obs.')}={text}")
    return " ".join(parts)
