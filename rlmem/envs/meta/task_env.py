"""Environments that hide a task: drawn at the start of a trial, kept for all of its episodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem import tree
from rlmem.envs import counter_rng
from rlmem.envs.base import Tensors, VecEnv, register
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.meta.splits import TRAIN, DrawsTasks
from rlmem.envs.meta.task_distribution import TaskDistribution
from rlmem.envs.tensor_env import StateEnv
from rlmem.envs.trials import Trials
from rlmem.errors import positive
from rlmem.registry import options_of

# Separates the random numbers of tasks from those of their ids.
_TASKS = 0x2545F4914F6CDD1D


class Trial(NamedTuple):
    """A task, the state of its present episode, and that episode's number; leaves are [N, ...]."""

    id: Int[Tensor, "N"]
    task: Any
    state: Any
    episode: Int[Tensor, "N"]


class TaskEnv(StateEnv[Trial], DrawsTasks):
    """Draws tasks of a `TaskDistribution` and keeps each for `episodes` episodes.

    A task is a function of its `id`, a hash of the seed and the trial's number. Ids of the split
    `train` are even, all others are odd. Besides, splits may differ in the domains of parameters
    (see `Splits`). The initial state of an episode is a function of the task's id and the episode's
    number. Nothing depends on the other environments of the batch.
    """

    def __init__(
        self,
        distribution: TaskDistribution[Any, Any],
        num_envs: int,
        episodes: int = 1,
        check_actions: bool = False,
        check_obs: bool = False,
    ) -> None:
        super().__init__(
            num_envs,
            distribution.observation_space,
            distribution.action_space,
            distribution.device,
            check_actions,
            check_obs,
        )
        self.distribution = distribution
        self.splits, self.split = distribution.splits, distribution.split
        self.episodes = positive("episodes", episodes)
        # An episode of `StateEnv` is a trial here.
        self.shortest = self.episodes * distribution.shortest_episode
        self.spares = distribution.spares

    @property
    def task(self) -> Any:
        """The hidden tasks; a tree of tensors [N, ...]."""
        return self.state.task

    @property
    def task_id(self) -> Int[Tensor, "N"]:
        """The ids of the hidden tasks."""
        return self.state.id

    def initial_state(self, draws: RandomDraws) -> Trial:
        """New tasks and their first episodes."""
        id = draw_ids(draws, self.split)
        episode = torch.zeros_like(id)
        task = self.distribution.draw_task(draws_of(id, episode - 1))
        state = self.distribution.initial_state(task, draws_of(id, episode))
        return Trial(id, task, state, episode)

    def transition(
        self, state: Trial, action: Tensors
    ) -> tuple[Trial, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """One step of the episodes; `_renew` starts new episodes and trials."""
        id, task, inner, episode = state
        inner, reward, terminated, truncated = self.distribution.transition(
            task, inner, action, self.random_steps
        )
        if self.distribution.changes:
            task = self.distribution.next_task(task, draws_of(id, episode))
        return Trial(id, task, inner, episode), reward, terminated, truncated

    def observe(self, state: Trial) -> Tensors:
        """Observations of the episodes."""
        return self.distribution.observe(state.task, state.state)

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The observation of environment `row` in words."""
        return self.distribution.describe_obs(obs, row)

    def describe_action(self, action: Tensors, row: int) -> str:
        """The action in environment `row` in words."""
        return self.distribution.describe_action(action, row)

    def reveal(self, row: int) -> str:
        """The hidden task of environment `row` in words."""
        return self.distribution.reveal(self.state.task, self.state.state, row)

    def _renew(self, done: Bool[Tensor, "N"]) -> bool:
        """Start the next episodes after ended ones, and the next trials after ended ones."""
        episode = self.state.episode + done
        over = episode == self.episodes
        self.state = self.state._replace(episode=episode)
        begun = self._begin_next(done & ~over)
        return super()._renew(over) or begun

    def _begin_next(self, inner: Bool[Tensor, "N"]) -> bool:
        """Start the next episode of the same task; False if certainly none has ended."""
        id, task, state, episode = self.state
        if not any(True for _ in tree.leaves(state)):
            return False
        if not self._may_ask:
            fresh = self.distribution.initial_state(task, draws_of(id, episode))
            self.state = self.state._replace(state=tree.select(inner, fresh, state))
            return True
        rows = inner.nonzero().squeeze(1)
        if len(rows) == 0:
            return False
        id, task, episode = tree.map(lambda leaf: leaf.index_select(0, rows), (id, task, episode))
        fresh = self.distribution.initial_state(task, draws_of(id, episode))
        tree.map(lambda leaf, new: leaf.index_copy_(0, rows, new), state, fresh)
        return True


def draw_ids(draws: RandomDraws, split: str) -> Int[Tensor, "M"]:
    """Ids of tasks: even for training, odd for any other split."""
    return draws.bits(1)[0].bitwise_and_(-2).bitwise_or_(int(split != TRAIN))


def draws_of(id: Int[Tensor, "M"], episode: Int[Tensor, "M"]) -> RandomDraws:
    """Random numbers for an episode of a task; number -1 is for the task itself."""
    return RandomDraws(counter_rng.mix(id ^ _TASKS), episode + 1)


Distribution = TypeVar("Distribution", bound=type[TaskDistribution[Any, Any]])


def meta(
    name: str, episodes: int, stop_returns: bool = False
) -> Callable[[Distribution], Distribution]:
    """Decorator that registers trials on a `TaskDistribution` as the environment `name`.

    `episodes` and `stop_returns` are defaults. Options are those of the distribution's constructor,
    of `TaskEnv` and of `Trials`.
    """
    trial_length, stop = episodes, stop_returns

    def put(distribution: Distribution) -> Distribution:
        def make(
            num_envs: int,
            split: str = TRAIN,
            episodes: int = trial_length,
            horizon: int = trial_length,
            stop_returns: bool = stop,
            check_actions: bool = False,
            check_obs: bool = False,
            device: torch.device | str = "cpu",
            **own: Any,
        ) -> VecEnv:
            tasks = distribution(split=split, device=device, **own)
            env = TaskEnv(tasks, num_envs, episodes, check_actions, check_obs)
            return Trials(env, episodes, horizon, stop_returns)

        register(name, options={**options_of(distribution), **options_of(make)})(make)
        return distribution

    return put
