"""A task with numbers of very different sizes: an order is shown once, positions are large."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

MOVES = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
NO_ORDER = 4


class Depot(gym.Env[Any, Any]):
    """A robot drives to the shelf that is named at the start, one of four: 30 there, -1 a step.

    Positions are from -4 to 4 times `scale`. The space has no bounds, except at scale 1.
    """

    action_space = spaces.Discrete(4)

    def __init__(self, scale: float = 1000.0) -> None:
        self.scale = scale
        bound = 4.0 if scale == 1 else np.inf
        self.observation_space = spaces.Dict(
            {"order": spaces.Discrete(NO_ORDER + 1), "position": spaces.Box(-bound, bound, (2,))}
        )

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.order = int(self.np_random.integers(4))
        self.place = self.np_random.uniform(-1, 1, 2)
        self.time = 0
        return self.observe(self.order), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        self.place = np.clip(self.place + MOVES[action], -4, 4)
        there = bool(np.abs(self.place - 3 * MOVES[self.order]).max() < 1)
        reward = 30.0 if there else -1.0
        return self.observe(NO_ORDER), reward, there, self.time == 20, {}

    def observe(self, order: int) -> dict[str, Any]:
        return {"order": order, "position": (self.scale * self.place).astype(np.float32)}
