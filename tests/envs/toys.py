"""Small Gymnasium environments for tests of one property each."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

EVERY_KIND = spaces.Dict(
    {
        "box": spaces.Box(-2.0, 3.0, (2, 3)),
        "double": spaces.Box(-0.1, 0.1, (4,), dtype=np.float64),
        "unbounded": spaces.Box(-np.inf, np.inf, (1,)),
        "scalar": spaces.Box(0.0, 1.0, ()),
        "die": spaces.Discrete(6, start=1),
        "below": spaces.Discrete(5, start=-7),
        "nest": spaces.Tuple(
            (
                spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [-2, 3]]),
                spaces.Dict({"bits": spaces.MultiBinary([2, 3]), "bit": spaces.MultiBinary(1)}),
                spaces.Tuple((spaces.Discrete(2),)),
            )
        ),
    }
)


class Echo(gym.Env):
    """The observation is the last action; an assertion fails for an action outside the space."""

    def __init__(self, space: gym.Space) -> None:
        self.observation_space = self.action_space = space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        with warnings.catch_warnings():
            # gymnasium samples a number from a Box of shape (), and warns about it.
            warnings.filterwarnings("ignore", ".*Casting input x to numpy array")
            assert self.action_space.contains(action), action
        return action, 0.0, False, False, {}


class Shows(gym.Env):
    """Observations are samples of any space; episodes end at random, in every possible way.

    With `reuse`, all observations are written into one array.
    """

    action_space = spaces.Discrete(3, start=-1)

    def __init__(self, space: gym.Space, reuse: bool = False) -> None:
        self.observation_space = space
        self.buffer = np.zeros(space.shape or (), space.dtype) if reuse else None

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return self._observe(), {"seen": "once"}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action), action
        end = int(self.np_random.integers(6))
        reward = float(action) + self.np_random.random()
        return self._observe(), reward, end in (0, 2), end in (1, 2), {"end": end}

    def _observe(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        sample = self.observation_space.sample()
        if self.buffer is None:
            return sample
        self.buffer[...] = sample
        return self.buffer


class Wrong(gym.Env):
    """The observation is `value`, which is not in the space."""

    observation_space = spaces.Box(0.0, 1.0, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, value: Any) -> None:
        self.value = value

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return self.value, 0.0, False, False, {}
