"""A small environment with known observations and rewards: it counts its own steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gymnasium import spaces

from rlmem.envs.base import Tensors, Transition


class Counting:
    """Observes (number of the episode, time step in it); step n of an episode has reward n.

    Episodes of environment i have `lengths[i]` steps and are truncated if `cut[i]`.
    """

    def __init__(self, lengths: list[int], cut: list[bool]) -> None:
        self.num_envs = len(lengths)
        self.device = torch.device("cpu")
        self.observation_space = {"obs": spaces.Box(0, 1e6, (2,))}
        self.action_space = {"action": spaces.Discrete(2)}
        self.lengths, self.cut = torch.tensor(lengths), torch.tensor(cut)

    def reset(self, seed: int | Sequence[int] | None = None) -> Tensors:
        self.episode = torch.zeros(self.num_envs)
        self.time = torch.zeros(self.num_envs)
        return self._obs()

    def step(self, action: Tensors) -> Transition:
        self.time = self.time + 1
        reward, final = self.time.clone(), self._obs()
        done = self.time >= self.lengths
        self.episode = self.episode + done
        self.time = torch.where(done, 0, self.time)
        return Transition(self._obs(), reward, done & ~self.cut, done & self.cut, final, done)

    def close(self) -> None:
        pass

    def _obs(self) -> Tensors:
        return {"obs": torch.stack([self.episode, self.time], -1)}
