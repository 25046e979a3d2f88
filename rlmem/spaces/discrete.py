"""Discrete spaces: the number of values and the first value of each entry."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np

from rlmem.errors import UsageError


def categories(space: gym.Space) -> list[int]:
    """The number of values of each entry of a discrete space (flattened)."""
    if isinstance(space, gym.spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, gym.spaces.MultiDiscrete):
        return [int(n) for n in space.nvec.flatten()]
    if isinstance(space, gym.spaces.MultiBinary):
        return [2] * math.prod(space.shape)
    raise UsageError(f"{space} is not a discrete space")


def first_values(space: gym.Space) -> list[int]:
    """The smallest value of each entry of a discrete space (flattened), like `categories`."""
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        return [int(start) for start in np.ravel(space.start)]
    return [0] * len(categories(space))
