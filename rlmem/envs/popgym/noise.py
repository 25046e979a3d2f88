"""Gaussian noise on observations, clipped to the bounds of the space."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from rlmem.envs.counter_rng import RandomDraws, normals
from rlmem.envs.tensor_env import TensorEnv


class Noisy(TensorEnv):
    """Two observed numbers with noise of standard deviation `sigma`, clipped to the bounds."""

    def __init__(self, sigma: float, **options: Any) -> None:
        super().__init__(**options)
        self.sigma = sigma
        high = self.observation_space["obs"].high  # type: ignore[attr-defined]
        self.high = torch.from_numpy(high).to(self.device)[:, None]
        self.low = -self.high

    def noise(self) -> Float32[Tensor, "2 N"]:
        """Standard normal numbers for the present step."""
        return self.random_steps.normals()

    def first_noise(self, draws: RandomDraws) -> Float32[Tensor, "2 M"]:
        """Standard normal numbers for the first observation of an episode."""
        return normals(draws.bits(1)[0])

    def blur(
        self, seen: Float32[Tensor, "2 M"], noise: Float32[Tensor, "2 M"]
    ) -> Float32[Tensor, "2 M"]:
        """`seen` with noise added, in place."""
        return seen.add_(noise, alpha=self.sigma).clamp_(self.low, self.high)
