"""Players to compare agents with: they act as policies do, and need no training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space
from jaxtyping import Bool
from torch import Tensor

from rlmem import tree
from rlmem.envs.base import Tensors, VecEnv
from rlmem.envs.meta.task_env import TaskEnv
from rlmem.errors import UsageError


class Choice(NamedTuple):
    """What a player does in one time step, and what it remembers of it."""

    action: Tensors
    state: Any


class Player(ABC):
    """Acts on what is observed through `Trials`, and on what it may know of the hidden tasks.

    What it draws comes from torch's global generator, as what a policy draws does.
    """

    def initial_state(self, batch_size: int) -> Any:
        """What it remembers before a trial's first observation."""
        return ()

    @abstractmethod
    def act(
        self, obs: Tensors, state: Any, start: Bool[Tensor, "N"], deterministic: bool = False
    ) -> Choice:
        """One time step of N environments; whether `deterministic` changes nothing."""


class Random(Player):
    """Any action, each as likely as the others; in boxes without bounds standard normal ones."""

    def __init__(self, env: VecEnv) -> None:
        self.env = env

    def act(
        self, obs: Tensors, state: Any, start: Bool[Tensor, "N"], deterministic: bool = False
    ) -> Choice:
        """A sample of the action space."""
        rows, device = len(start), start.device
        spaces = self.env.action_space.items()
        return Choice({key: _sample(space, rows, device) for key, space in spaces}, state)


class Oracle(Player):
    """Knows the task: the best that can be done without having to find out (`best_action`)."""

    def __init__(self, env: TaskEnv[Any, Any]) -> None:
        self.env = env

    def act(
        self, obs: Tensors, state: Any, start: Bool[Tensor, "N"], deterministic: bool = False
    ) -> Choice:
        """The best action, by a plan that is made at the start of a trial."""
        env = self.env
        if start.any():
            plan = env.plan(env.task)
            state = plan if start.all() else tree.select(start, plan, state)
        return Choice(env.best_action(state, env.task, env.state.state), state)


def knows_best(env: TaskEnv[Any, Any]) -> bool:
    """Whether the environment has an `Oracle`."""
    return type(env).best_action is not TaskEnv.best_action


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
