"""Trials in the simulators of other packages, which run one at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from rlmem.envs import counter_rng
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.gym_env import GymVecEnv
from rlmem.envs.meta.splits import Domain, DrawsTasks, Ranges, Splits, Values
from rlmem.envs.meta.task_env import draw_ids, draws_of
from rlmem.envs.trials import Trials
from rlmem.errors import positive

Array = NDArray[Any]


class Simulator(gym.Env[Array, Array], ABC):
    """A Gymnasium environment whose task can be set."""

    @abstractmethod
    def set_task(self, task: dict[str, Any], draws: RandomDraws) -> None:
        """Use this task from the next reset on.

        `task` has the parameters of the splits that have values; others can be drawn from `draws`.
        """

    @abstractmethod
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode, which depends on `seed` and the task only."""

    @abstractmethod
    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One step of the task."""


class TaskedSimulator(gym.Wrapper[Array, Array, Array, Array]):
    """Draws tasks for a simulator as `TaskEnv` does, and keeps each for `episodes` episodes.

    Tasks and initial states are functions of the seed and of the numbers of trial and episode.
    """

    env: Simulator

    def __init__(
        self, env: Simulator, domains: Mapping[str, Domain], split: str, episodes: int
    ) -> None:
        super().__init__(env)
        self.domains, self.split, self.episodes = domains, split, episodes
        self.key: torch.Tensor | None = None
        self.ended = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start the next episode if one has ended, otherwise a new trial."""
        if seed is None and self.key is None:
            seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
        if seed is not None:
            self.key, self.trial = counter_rng.keys([seed]), 0
            self._draw()
        elif not self.ended or self.episode + 1 == self.episodes:
            self.trial += 1
            self._draw()
        else:
            self.episode += 1
        self.ended = False
        draws = draws_of(self.id, torch.tensor([self.episode]))
        obs, _ = self.env.reset(seed=int(draws.below(1 << 30, 1)))
        return obs, {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One step of the task."""
        obs, reward, terminated, truncated, _ = self.env.step(action)
        self.ended = terminated or truncated
        return obs, reward, terminated, truncated, {}

    def between_episodes(self) -> dict[str, Any]:
        """The values from which the next `reset` follows."""
        assert self.key is not None
        numbers = {"trial": self.trial, "episode": self.episode, "ended": self.ended}
        return {"key": int(self.key), **numbers}

    def set_between_episodes(self, values: dict[str, Any]) -> None:
        """Restore the values of `between_episodes`."""
        self.key, self.trial = torch.tensor([values["key"]]), values["trial"]
        self._draw()
        self.episode, self.ended = values["episode"], values["ended"]

    def _draw(self) -> None:
        assert self.key is not None
        self.episode = 0
        self.id = draw_ids(RandomDraws(self.key, torch.tensor([self.trial])), self.split)
        draws = draws_of(self.id, torch.tensor([-1]))
        self.task = {
            name: domain.draw(draws).tolist()[0]
            for name, domain in self.domains.items()
            if isinstance(domain, Values | Ranges)
        }
        self.env.set_task(self.task, draws)


class Packaged(GymVecEnv, DrawsTasks):
    """Several `TaskedSimulator`s as a `VecEnv`, with the splits of their tasks."""

    def __init__(
        self,
        make: Callable[[], Simulator],
        splits: Splits,
        split: str,
        episodes: int,
        num_envs: int,
        vectorization: str,
        check_obs: bool,
        device: torch.device | str,
    ) -> None:
        env_fn = partial(_tasked, make, splits[split], split, positive("episodes", episodes))
        env_fns = [env_fn] * positive("num_envs", num_envs)
        super().__init__(env_fns, vectorization, device, check_obs)
        self.splits, self.split, self.episodes = splits, split, episodes


def _tasked(
    make: Callable[[], Simulator], domains: Mapping[str, Domain], split: str, episodes: int
) -> gym.Env:
    return TaskedSimulator(make(), domains, split, episodes)


def in_trials(
    make: Callable[[], Simulator],
    splits: Splits,
    split: str,
    episodes: int,
    horizon: int,
    stop_returns: bool,
    num_envs: int,
    vectorization: str,
    check_obs: bool,
    device: torch.device | str,
) -> Trials:
    """Trials in `num_envs` simulators made by `make`."""
    env = Packaged(make, splits, split, episodes, num_envs, vectorization, check_obs, device)
    return Trials(env, episodes, horizon, stop_returns)


def evenly(count: int, low: float, high: float, seed: int) -> tuple[float, ...]:
    """`count` different uniform random numbers between `low` and `high`, determined by `seed`."""
    draws = RandomDraws(counter_rng.keys([seed]), torch.zeros(1, dtype=torch.int64))
    return tuple((draws.uniform64(count)[:, 0] * (high - low) + low).tolist())
