"""The present episodes of Gymnasium environments: their starts, actions and rewards.

An environment of Gymnasium cannot be saved in the middle of an episode. Instead the episode is
played again: a reset with the environment's seed, then with the state that its random generator had
at the start of the episode, and the same actions. The rewards and the last observation tell whether
it has been repeated; they differ if the environment is random in another way.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rlmem.envs.base import CannotContinue

# The longest episode that is played again. Longer ones would take long.
MAX_STEPS = 20_000


@runtime_checkable
class CountsEpisodes(Protocol):
    """An environment whose next episode depends on more than its random generator."""

    def between_episodes(self) -> dict[str, Any]:
        """Plain values, from which the next `reset` follows."""
        ...

    def set_between_episodes(self, values: dict[str, Any]) -> None:
        """Restore the values of `between_episodes`, after a reset with the same seed."""
        ...


class Start(NamedTuple):
    """The start of an episode: the seed of the last reset with one, and what was before this reset.

    That is the state of the random generator, and the values of `CountsEpisodes`; both are None for
    an episode that begins with the seed. Without a seed and a state, it cannot be repeated.
    """

    seed: int | None
    random: dict[str, Any] | None = None
    values: dict[str, Any] | None = None

    @classmethod
    def of(cls, env: gym.Env, seed: int | None, before: Start | None) -> Start:
        """The start of the episode that the next `reset(seed)` begins."""
        if seed is not None:
            return cls(seed)
        counts, generator = _counting(env), getattr(env.unwrapped, "np_random", None)
        random = None
        if isinstance(generator, np.random.Generator):
            random = dict(generator.bit_generator.state)
        values = counts.between_episodes() if counts else None
        return cls(before.seed if before else None, random, values)

    @property
    def is_known(self) -> bool:
        """Whether the episode can be repeated."""
        return self.seed is not None or self.random is not None

    def text(self) -> str:
        """The start as JSON."""
        return json.dumps(self._asdict(), default=lambda array: array.tolist())

    @classmethod
    def from_text(cls, text: str) -> Start:
        """The start of a `text`."""
        return cls(**json.loads(text))


@runtime_checkable
class RepeatsEpisodes(Protocol):
    """Environments that can play their present episodes again."""

    def starts(self) -> Sequence[Start]:
        """The start of each present episode."""
        ...

    def play_again(
        self, starts: Sequence[Start], actions: Sequence[Sequence[Any]]
    ) -> tuple[dict[str, NDArray[Any]], list[list[Any]]]:
        """Repeat an episode in each environment; returns last observations and all rewards.

        Raises `CannotContinue` if one is not repeated.
        """
        ...


def play_again(env: gym.Env, start: Start, actions: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Repeat an episode; returns its last observation and its rewards.

    Raises `CannotContinue` if it ends before its last action.
    """
    obs, _ = env.reset(seed=0 if start.seed is None else start.seed)
    if start.random is not None or start.values is not None:
        if start.random is not None:
            env.unwrapped.np_random.bit_generator.state = _with_arrays(start.random)
        if (counts := _counting(env)) is not None and start.values is not None:
            counts.set_between_episodes(start.values)
        obs, _ = env.reset()
    rewards = []
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        rewards.append(reward)
        if terminated or truncated:
            raise CannotContinue("an environment did not repeat its episode: it ended early")
    return obs, rewards


class History:
    """The actions and rewards of the present episodes of `num_envs` environments."""

    def __init__(self, num_envs: int) -> None:
        self.begun = np.zeros(num_envs, dtype=np.int64)  # the number of each episode's first step
        self.steps: deque[tuple[Any, NDArray[np.float64]]] = deque()
        self.first = self.end = 0  # steps first .. end - 1 are here

    def add(self, actions: Any, reward: NDArray[np.float64], done: NDArray[np.bool_]) -> None:
        """Add a step of all environments; `done` are the ends of episodes."""
        self.steps.append((actions, reward))
        self.end += 1
        if done.any():
            self.begun[done] = self.end
        while self.first < self.begun.min() or len(self.steps) > MAX_STEPS:
            self.steps.popleft()
            self.first += 1

    @property
    def is_complete(self) -> bool:
        """Whether all present episodes are here from their first step on."""
        return bool(self.begun.min() >= self.first)

    def rewards(self, row: int) -> list[float]:
        """The rewards of the present episode of an environment."""
        later = list(self.steps)[self.begun[row] - self.first :]
        return [float(reward[row]) for _, reward in later]


def _counting(env: Any) -> CountsEpisodes | None:
    """The environment, or the one inside its wrappers, that counts its episodes."""
    while not isinstance(env, CountsEpisodes):
        if not isinstance(env, gym.Wrapper):
            return None
        env = env.env
    return env


def _with_arrays(state: dict[str, Any]) -> dict[str, Any]:
    """A generator's state from JSON, in which arrays are lists."""
    return {
        key: _with_arrays(value)
        if isinstance(value, dict)
        else np.array(value, dtype=np.uint64)
        if isinstance(value, list)
        else value
        for key, value in state.items()
    }
