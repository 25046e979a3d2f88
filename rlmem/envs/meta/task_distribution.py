"""Distributions of hidden tasks: the base class for authors of meta-RL environments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

import gymnasium as gym
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.counter_rng import RandomDraws, RandomSteps
from rlmem.envs.meta.splits import TRAIN, Ranges, Splits, Values

T = TypeVar("T")
S = TypeVar("S")


class TaskDistribution(ABC, Generic[T, S]):
    """A distribution of tasks T with episode states S, both trees of tensors [N, ...].

    A subclass defines `draw_task` and, for given tasks, the three functions of an environment:
    `initial_state`, `transition` and `observe`. It holds no state of episodes: that is in
    `TaskEnv`, the environment that plays the tasks. `split` chooses the domains of the tasks'
    parameters (see `Splits`).
    """

    # No episode has fewer steps. May be set by the constructor.
    shortest_episode: int = 1
    # Initial states drawn ahead for each environment (see `StateEnv`).
    spares: ClassVar[int] = 1
    # Whether tasks change during a trial (see `next_task`).
    changes: ClassVar[bool] = False

    def __init__(
        self,
        splits: Splits,
        observation_space: gym.Space,
        action_space: gym.Space,
        split: str = TRAIN,
        device: torch.device | str = "cpu",
    ) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.splits, self.split = splits, split
        self.domains = splits[split]
        self.device = torch.device(device)

    @abstractmethod
    def draw_task(self, draws: RandomDraws) -> T:
        """Tasks for `draws.size` trials; parameters of the splits are leaves of the same names."""

    @abstractmethod
    def initial_state(self, task: T, draws: RandomDraws) -> S:
        """Initial states of episodes of these tasks."""

    @abstractmethod
    def transition(
        self, task: T, state: S, action: Tensors, random_steps: RandomSteps
    ) -> tuple[S, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """Next state (may be `state`, changed in place), reward, terminated, truncated.

        Random numbers come from `random_steps`.
        """

    @abstractmethod
    def observe(self, task: T, state: S) -> Tensors:
        """Observations of states [N, ...]; new tensors that share no memory with the state."""

    def drawn(self, name: str, draws: RandomDraws) -> Tensor:
        """The parameter `name` of `draws.size` tasks, drawn from its domain in this split."""
        domain = self.domains[name]
        assert isinstance(domain, Values | Ranges)
        return domain.draw(draws)

    def next_task(self, task: T, draws: RandomDraws) -> T:
        """The tasks after a step, if tasks change; `draws` are those of the present episode."""
        return task

    def kinds(self, task: T) -> list[str]:
        """The kind of each task, for reports; an empty list if there is only one kind."""
        return []

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The observation of environment `row` in words."""
        return " ".join(str(leaf[row].tolist()) for leaf in obs.values())

    def describe_action(self, action: Tensors, row: int) -> str:
        """The action in environment `row` in words."""
        return " ".join(str(leaf[row].tolist()) for leaf in action.values())

    def reveal(self, task: T, state: S, row: int) -> str:
        """The hidden task of environment `row` in words."""
        return ""


class SolvableTasks(TaskDistribution[T, S]):
    """A distribution of tasks with an oracle: a player that knows the task."""

    def plan(self, task: T) -> Any:
        """The oracle's precomputation for known tasks: a tree of tensors [N, ...]."""
        return ()

    @abstractmethod
    def best_action(self, plan: Any, task: T, state: S) -> Tensors:
        """The oracle's actions for known tasks; `plan` is the result of `plan` for them."""


def never(like: Tensor) -> Bool[Tensor, "N"]:
    """False for each environment, as `terminated` or `truncated`; `like` is any tensor [N]."""
    return torch.zeros_like(like, dtype=torch.bool)
