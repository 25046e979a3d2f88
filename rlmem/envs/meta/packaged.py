"""Environments of packages, one at a time, that hide a task for the episodes of a trial."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from rlmem.envs import streams
from rlmem.envs.gym_env import GymVecEnv
from rlmem.envs.meta.splits import Domain, Ranges, Splits, Values
from rlmem.envs.meta.task_env import draw_ids, draws_of
from rlmem.envs.streams import Draws
from rlmem.envs.trials import Trials
from rlmem.errors import positive


class Tasked(gym.Env[NDArray[Any], NDArray[Any]], ABC):
    """Draws a task as `TaskEnv` does, keeps it for `episodes` episodes, and then draws another one.

    A subclass takes a task on (`take`), begins an episode of it (`begin`) and plays it (`play`).
    Tasks and episodes are functions of the seed and their numbers.
    """

    def __init__(self, domains: Mapping[str, Domain], split: str, episodes: int) -> None:
        self.domains, self.split, self.episodes = domains, split, episodes
        self.key: torch.Tensor | None = None
        self.ended = False

    @abstractmethod
    def take(self, task: dict[str, Any], draws: Draws) -> None:
        """Play this task from now on; its parameters are those of the splits that have values."""

    @abstractmethod
    def begin(self, seed: int) -> NDArray[Any]:
        """Begin an episode; its first observation."""

    @abstractmethod
    def play(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool]:
        """Observation, reward, terminated and truncated after one step."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Begin the next episode where one has ended, and a new trial where none has."""
        if seed is None and self.key is None:
            seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
        if seed is not None:
            self.key, self.trial = streams.keys([seed]), 0
            self._draw()
        elif not self.ended or self.episode + 1 == self.episodes:
            self.trial += 1
            self._draw()
        else:
            self.episode += 1
        self.ended = False
        seed = int(draws_of(self.id, torch.tensor([self.episode])).below(1 << 30, 1))
        return self.begin(seed), {}

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """One step of the task."""
        obs, reward, terminated, truncated = self.play(action)
        self.ended = terminated or truncated
        return obs, reward, terminated, truncated, {}

    def _draw(self) -> None:
        assert self.key is not None
        self.episode = 0
        self.id = draw_ids(Draws(self.key, torch.tensor([self.trial])), self.split)
        draws = draws_of(self.id, torch.tensor([-1]))
        self.task = {
            name: domain.draw(draws).tolist()[0]
            for name, domain in self.domains.items()
            if isinstance(domain, Values | Ranges)
        }
        self.take(self.task, draws)


class Packaged(GymVecEnv):
    """Several `Tasked` environments, with the splits of which they draw their tasks."""

    def __init__(
        self,
        env_fn: Callable[[], Tasked],
        splits: Splits,
        split: str,
        episodes: int,
        num_envs: int,
        vectorization: str,
        device: torch.device | str,
    ) -> None:
        super().__init__([env_fn] * positive("num_envs", num_envs), vectorization, device)
        self.splits, self.split, self.episodes = splits, split, episodes


def in_trials(
    make: Callable[[Mapping[str, Domain], str, int], Tasked],
    splits: Splits,
    split: str,
    episodes: int,
    horizon: int,
    stop_returns: bool,
    num_envs: int,
    vectorization: str,
    device: torch.device | str,
) -> Trials:
    """Trials in the environments that `make` makes of domains, split and number of episodes."""
    env_fn = partial(make, splits[split], split, positive("episodes", episodes))
    env = Packaged(env_fn, splits, split, episodes, num_envs, vectorization, device)
    return Trials(env, episodes, horizon, stop_returns)


def evenly(count: int, low: float, high: float, seed: int) -> tuple[float, ...]:
    """`count` numbers between `low` and `high`, all different, which only `seed` decides."""
    draws = Draws(streams.keys([seed]), torch.zeros(1, dtype=torch.int64))
    return tuple((draws.uniform64(count)[:, 0] * (high - low) + low).tolist())
