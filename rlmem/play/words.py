"""What is seen, done and hidden, in words: an environment's own where it has some."""

from __future__ import annotations

import torch
from gymnasium.spaces import Discrete

from rlmem.envs.base import Tensors, VecEnv, inside
from rlmem.envs.tensor_env import TensorEnv

# Numbers of a leaf that are shown, and actions whose names are.
SHOWN = 12


class Words:
    """The words for what happens in an environment of one."""

    def __init__(self, env: VecEnv) -> None:
        self.action_space = env.action_space
        # The one that can describe itself, below what wraps it.
        self.env: TensorEnv | None = inside(env, TensorEnv)

    def obs(self, obs: Tensors) -> str:
        """An observation [1, ...]."""
        if self.env is None:
            return numbers(obs)
        return self.env.describe_obs({key: obs[key] for key in self.env.observation_space}, 0)

    def action(self, action: Tensors) -> str:
        """An action [1, ...]."""
        return numbers(action) if self.env is None else self.env.describe_action(action, 0)

    def hidden(self) -> str:
        """What is hidden just now."""
        return "" if self.env is None else self.env.reveal(0)

    def action_names(self) -> dict[int, str]:
        """The actions with their names, if they are few."""
        (key, space), *more = self.action_space.items()
        if more or not isinstance(space, Discrete) or space.n > SHOWN:
            return {}
        return {i: self.action({key: torch.tensor([i])}) for i in range(int(space.n))}


def numbers(leaves: Tensors) -> str:
    """Leaves [1, ...] as numbers, the first ones of each; of an image the size and mean."""
    parts = []
    for key, leaf in leaves.items():
        flat = leaf[0].flatten().tolist()
        text = " ".join(f"{number:.3g}" for number in flat[:SHOWN])
        if leaf.dim() > 2:
            size = "x".join(map(str, leaf.shape[1:]))
            text = f"{size} of mean {sum(flat) / len(flat):.3g}"
        elif len(flat) > SHOWN:
            text += f" .. ({len(flat)})"
        parts.append(text if len(leaves) == 1 else f"{key.removeprefix('obs.')}={text}")
    return " ".join(parts)
