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


class Gives(gym.Env):
    """Gives `result` (observation, reward, terminated, truncated) in step number `at`.

    Before, and in environments seeded with another number than 1, results are `good` and zeros. At
    step 0 the observation of `reset` is that of `result`.
    """

    action_space = spaces.Discrete(2)

    def __init__(self, space: gym.Space, good: Any, result: tuple[Any, ...], at: int = 3) -> None:
        self.observation_space = space
        self.good, self.result, self.at = good, result, at

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        self.gives = seed == 1
        self.time = 0
        return self.result[0] if self.gives and self.at == 0 else self.good, {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict]:
        self.time += 1
        if self.gives and self.time == self.at:
            return (*self.result, {})
        return self.good, 0.0, False, False, {}
