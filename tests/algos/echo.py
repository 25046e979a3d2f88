"""The smallest environment that needs memory."""

from __future__ import annotations

import torch
from gymnasium import spaces

from rlmem.envs.base import Tensors, Transition


class Echo:
    """Shows a bit at the start and pays +-1 at the end for having said it: needs memory."""

    def __init__(self, num_envs: int, length: int) -> None:
        self.num_envs, self.length, self.device = num_envs, length, torch.device("cpu")
        self.observation_space = {"obs": spaces.Discrete(3)}
        self.action_space = {"action": spaces.Discrete(2)}

    def reset(self, seed: object = None) -> Tensors:
        self.time = 0
        self.bit = torch.randint(2, (self.num_envs,))
        return {"obs": self.bit}

    def step(self, action: Tensors) -> Transition:
        self.time += 1
        over = torch.full((self.num_envs,), self.time == self.length)
        reward = torch.where(over, 2.0 * (action["action"] == self.bit) - 1, 0.0)
        final: Tensors = {"obs": torch.full((self.num_envs,), 2)}
        obs = self.reset() if self.time == self.length else final
        return Transition(obs, reward, over, ~over & over, final, over)

    def close(self) -> None:
        pass
