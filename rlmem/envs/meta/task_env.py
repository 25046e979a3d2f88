"""Environments that hide a task: drawn at the start of a trial, kept for all of its episodes."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import gymnasium as gym
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem import tree
from rlmem.envs import streams
from rlmem.envs.base import Tensors, VecEnv, register
from rlmem.envs.meta.splits import TRAIN, Ranges, Splits, Values
from rlmem.envs.streams import Draws
from rlmem.envs.tensor_env import StateEnv
from rlmem.envs.trials import Trials
from rlmem.errors import positive

T = TypeVar("T")
S = TypeVar("S")

# Sets the numbers that tasks are made of apart from those that their ids are made of.
_TASKS = 0x2545F4914F6CDD1D


class Trial(NamedTuple):
    """A task, where it is played, and how far: every leaf [N, ...]."""

    id: Int[Tensor, "N"]
    task: Any
    state: Any
    episode: Int[Tensor, "N"]


class TaskEnv(StateEnv[Trial], Generic[T, S]):
    """Draws a task, keeps it for `episodes` episodes, and then draws another one.

    A subclass draws tasks (`draw_task`), says how an episode begins (`begin`), advances it (`play`)
    and says what is seen (`see`); tasks T and states S are trees of tensors [N, ...]. An episode
    has at least `shortest_episode` steps.

    A task is a function of its `id`, which is one of the seed, the number of the trial and whether
    the split is `train`: ids of training are even, all others are odd. Beside it the domains of
    the split may differ (`Splits`). So is the beginning of each episode a function of the id and
    the episode's number; nothing depends on what is drawn or played beside it.
    """

    shortest_episode = 1

    def __init__(
        self,
        splits: Splits,
        observation_space: gym.Space,
        action_space: gym.Space,
        num_envs: int,
        split: str = TRAIN,
        episodes: int = 1,
        check_actions: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(num_envs, observation_space, action_space, device, check_actions)
        self.splits, self.split = splits, split
        self.domains = splits[split]
        self.episodes = positive("episodes", episodes)
        # Of a trial, which is to the class above what an episode is.
        self.shortest = self.episodes * self.shortest_episode

    @abstractmethod
    def draw_task(self, draws: Draws) -> T:
        """Tasks of `draws.size` trials; parameters of the splits are leaves by their names."""

    @abstractmethod
    def begin(self, task: T, draws: Draws) -> S:
        """The states in which episodes of these tasks begin."""

    @abstractmethod
    def play(
        self, task: T, state: S, action: Tensors
    ) -> tuple[S, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """The next state (it may be the old one, changed), reward, terminated, truncated."""

    @abstractmethod
    def see(self, task: T, state: S) -> Tensors:
        """What is seen of states [N, ...]; new tensors, which share no memory with the state."""

    def drawn(self, name: str, draws: Draws) -> Tensor:
        """The parameter `name` of `draws.size` tasks, from its domain in this split."""
        domain = self.domains[name]
        assert isinstance(domain, Values | Ranges)
        return domain.draw(draws)

    def plan(self, task: T) -> Any:
        """What one who knows the tasks works out ahead: a tree of tensors [N, ...]."""
        return ()

    def best_action(self, plan: Any, task: T, state: S) -> Tensors:
        """What one who knows the tasks does; `plan` is what `plan` gave for them.

        Raises NotImplementedError where no such player is known.
        """
        raise NotImplementedError(f"{type(self).__name__} has no player that knows the task")

    def kinds(self, task: T) -> list[str]:
        """Of which kind each task is, for reports; none where all are of one kind."""
        return []

    @property
    def task(self) -> T:
        """The hidden tasks, for those who may know; a tree of tensors [N, ...]."""
        return self.state.task

    @property
    def task_id(self) -> Int[Tensor, "N"]:
        """The ids of the hidden tasks."""
        return self.state.id

    def draw(self, draws: Draws) -> Trial:
        """Tasks and their first episodes."""
        id = draw_ids(draws, self.split)
        episode = torch.zeros_like(id)
        task = self.draw_task(draws_of(id, episode - 1))
        return Trial(id, task, self._begin(task, id, episode), episode)

    def advance(
        self, state: Trial, action: Tensors
    ) -> tuple[Trial, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """One step of the episodes; trials are renewed elsewhere."""
        inner, reward, terminated, truncated = self.play(state.task, state.state, action)
        return state._replace(state=inner), reward, terminated, truncated

    def observe(self, state: Trial) -> Tensors:
        """What is seen of trials."""
        return self.see(state.task, state.state)

    def _renew(self, done: Bool[Tensor, "N"]) -> bool:
        """Give the ended episodes their next ones, and the ended trials theirs."""
        episode = self.state.episode + done
        over = episode == self.episodes
        self.state = self.state._replace(episode=episode)
        begun = self._begin_next(done & ~over)
        return super()._renew(over) or begun

    def _begin_next(self, inner: Bool[Tensor, "N"]) -> bool:
        """Begin the next episode of the same task; False if there was none for sure."""
        id, task, state, episode = self.state
        if not any(True for _ in tree.leaves(state)):
            return False
        if not self._may_ask:
            fresh = self._begin(task, id, episode)
            self.state = self.state._replace(state=tree.select(inner, fresh, state))
            return True
        rows = inner.nonzero().squeeze(1)
        if len(rows) == 0:
            return False
        some = tree.map(lambda leaf: leaf.index_select(0, rows), (task, id, episode))
        tree.map(lambda leaf, new: leaf.index_copy_(0, rows, new), state, self._begin(*some))
        return True

    def _begin(self, task: T, id: Tensor, episode: Tensor) -> S:
        return self.begin(task, draws_of(id, episode))


def draw_ids(draws: Draws, split: str) -> Int[Tensor, "M"]:
    """Ids of tasks: even ones for training, odd ones for any other split."""
    return draws.bits(1)[0].bitwise_and_(-2).bitwise_or_(int(split != TRAIN))


def draws_of(id: Int[Tensor, "M"], episode: Int[Tensor, "M"]) -> Draws:
    """The numbers that an episode of a task begins with; the task's own are those of -1."""
    return Draws(streams.mix(id ^ _TASKS), episode + 1)


Env = TypeVar("Env", bound=type[TaskEnv[Any, Any]])


def meta(name: str, episodes: int, stop_returns: bool = False) -> Callable[[Env], Env]:
    """Registers a `TaskEnv` as `name`, in such trials (see `Trials`) unless told otherwise.

    Its options are those of its constructor, of `TaskEnv` but for the spaces, and of `Trials`.
    """

    def put(task_env: Env) -> Env:
        def make(**options: Any) -> VecEnv:
            given = {**defaults, **options}
            trials = {key: given.pop(key) for key in ("horizon", "stop_returns")}
            return Trials(task_env(**given), given["episodes"], **trials)

        own = inspect.signature(task_env).parameters.values()
        shared = inspect.signature(TaskEnv).parameters.values()
        named = {p.name: p for p in [*own, *shared] if p.kind != p.VAR_KEYWORD}
        for space in ("splits", "observation_space", "action_space"):
            named.pop(space)
        keyword = inspect.Parameter.KEYWORD_ONLY
        more = {"episodes": episodes, "horizon": episodes, "stop_returns": stop_returns}
        for key, default in more.items():
            named[key] = inspect.Parameter(key, keyword, default=default)
        # Lists are what YAML has for tuples.
        parameters = [p.replace(kind=keyword, default=_lists(p.default)) for p in named.values()]
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        make.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        register(name)(make)
        return task_env

    return put


def _lists(value: Any) -> Any:
    return [*map(_lists, value)] if isinstance(value, tuple) else value
