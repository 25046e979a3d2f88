"""Reference players: baselines with the interface of policies, without training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space
from jaxtyping import Bool
from torch import Tensor

from rlmem import tree
from rlmem.envs.base import Tensors, VecEnv
from rlmem.envs.legal_actions import LegalActions
from rlmem.envs.meta.task_distribution import SolvableTasks
from rlmem.envs.meta.task_env import TaskEnv
from rlmem.errors import UsageError


class Choice(NamedTuple):
    """A player's actions in one time step, and its next state."""

    action: Tensors
    state: Any


class Player(ABC):
    """Acts on observations of `Trials`, and on knowledge of the hidden tasks, if it has any.

    Like policies, players draw from torch's global generator.
    """

    def initial_state(self, batch_size: int) -> Any:
        """The player's state before a trial's first observation."""
        return ()

    @abstractmethod
    def act(
        self, obs: Tensors, state: Any, start: Bool[Tensor, "N"], deterministic: bool = False
    ) -> Choice:
        """Actions for one time step of N environments; `deterministic` is ignored."""


class RandomPlayer(Player):
    """Uniform random (legal) actions; standard normal ones in boxes without bounds."""

    def __init__(self, env: VecEnv) -> None:
        self.env = env
        self.legal = LegalActions.find(env.observation_space, env.action_space)

    def act(
        self, obs: Tensors, state: Any, start: Bool[Tensor, "N"], deterministic: bool = False
    ) -> Choice:
        """Samples of the action space."""
        rows, device = len(start), start.device
        spaces = self.env.action_space.items()
        action = {key: _sample(space, rows, device) for key, space in spaces}
        return Choice(action if self.legal is None else action | self.legal.draw(obs), state)


class Oracle(Player):
    """Knows the task, and plays the best actions (`SolvableTasks.best_action`)."""

    def __init__(self, env: TaskEnv, tasks: SolvableTasks[Any, Any]) -> None:
        """`tasks` is the distribution of `env`."""
        self.env, self.tasks = env, tasks

    def act(
        self, obs: Tensors, state: Any, start: Bool[Tensor, "N"], deterministic: bool = False
    ) -> Choice:
        """The best actions; the precomputation happens at the start of a trial."""
        env, tasks = self.env, self.tasks
        if start.any():
            plan = tasks.plan(env.task)
            state = plan if start.all() else tree.select(start, plan, state)
        return Choice(tasks.best_action(state, env.task, env.state.state), state)


@runtime_checkable
class Solvable(Protocol):
    """An environment that knows the best actions in its present hidden states."""

    def best_action(self) -> Tensors:
        """The best action of each environment."""
        ...


class StateOracle(Player):
    """Knows the hidden states of an environment, and plays its best actions."""

    def __init__(self, env: Solvable) -> None:
        self.env = env

    def act(
        self, obs: Tensors, state: Any, start: Bool[Tensor, "N"], deterministic: bool = False
    ) -> Choice:
        """The best actions in the present states."""
        return Choice(self.env.best_action(), state)


def _sample(space: Space, rows: int, device: torch.device) -> Tensor:
    if isinstance(space, Box):
        if not space.is_bounded("both"):
            return torch.randn(rows, *space.shape, device=device)
        low, high = (torch.as_tensor(end, device=device) for end in (space.low, space.high))
        return low + (high - low) * torch.rand(rows, *space.shape, device=device)
    if isinstance(space, Discrete):
        return torch.randint(int(space.n), (rows,), device=device)
    if isinstance(space, MultiBinary | MultiDiscrete):
        counts = space.nvec if isinstance(space, MultiDiscrete) else [2] * space.shape[0]
        limits = torch.as_tensor(counts, device=device)
        luck = torch.rand(rows, len(limits), device=device, dtype=torch.float64)
        return (luck * limits).long()
    raise UsageError(f"action space {space} is not supported")
