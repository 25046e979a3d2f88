"""Base class of tasks that move a point in the plane, with a hidden goal or wind."""

from __future__ import annotations

from abc import abstractmethod
from math import pi
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.counter_rng import RandomDraws, RandomSteps
from rlmem.envs.meta.splits import Splits
from rlmem.envs.meta.task_distribution import SolvableTasks, never
from rlmem.errors import UsageError, positive
from rlmem.spaces.unit_box import UnitBox


class Flight(NamedTuple):
    """The point's position, and the number of steps taken."""

    position: Float[Tensor, "N 2"]
    t: Int[Tensor, "N"]


class PointTasks(SolvableTasks[Any, Flight]):
    """An action in [-1, 1]^2 moves the point by `speed` times the action, plus a drift.

    An episode has `length` steps and begins at (0, 0). A step earns minus the distance to the goal.
    With `sparse` it earns 1 minus the distance within `goal_radius`, else 0. The observation is the
    position.
    """

    def __init__(
        self,
        splits: Splits,
        length: int,
        speed: float,
        sparse: bool,
        goal_radius: float,
        **options: Any,
    ) -> None:
        self.length = self.shortest_episode = positive("length", length)
        for name, value in (("speed", speed), ("goal_radius", goal_radius)):
            if value <= 0:
                raise UsageError(f"{name} must be above 0, not {value}")
        self.speed, self.sparse, self.goal_radius = speed, sparse, goal_radius
        plane = UnitBox(-np.inf, np.inf, (2,), np.float32)
        super().__init__(splits, plane, Box(-1.0, 1.0, (2,), np.float32), **options)

    @abstractmethod
    def goal(self, task: Any) -> Float[Tensor, "N 2"]:
        """The goal."""

    @abstractmethod
    def drift(self, task: Any) -> Float[Tensor, "N 2"] | float:
        """The displacement added in each step."""

    def initial_state(self, task: Any, draws: RandomDraws) -> Flight:
        """At the origin."""
        position = torch.zeros(draws.size, 2, device=draws.device)
        return Flight(position, torch.zeros(draws.size, dtype=torch.int64, device=draws.device))

    def transition(
        self, task: Any, state: Flight, action: Tensors, random_steps: RandomSteps
    ) -> tuple[Flight, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """Move the point."""
        push = action["action"].float().clamp(-1, 1)
        position, t = state.position + self.speed * push + self.drift(task), state.t + 1
        distance = (position - self.goal(task)).norm(dim=1)
        reward = -distance
        if self.sparse:
            reward = torch.where(distance <= self.goal_radius, 1 - distance, 0)
        return Flight(position, t), reward, t == self.length, never(t)

    def observe(self, task: Any, state: Flight) -> Tensors:
        """The position."""
        return {"obs": state.position.clone()}

    def best_action(self, plan: Any, task: Any, state: Flight) -> Tensors:
        """Straight to the goal, compensating the drift; at the goal, stay."""
        way = (self.goal(task) - state.position - self.drift(task)) / self.speed
        # Scaled down to a full step if the goal is further away.
        return {"action": way / way.abs().amax(1, keepdim=True).clamp(min=1)}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The position."""
        return "({:.2f}, {:.2f})".format(*obs["obs"][row].tolist())

    def describe_action(self, action: Tensors, row: int) -> str:
        """The action."""
        return "({:.2f}, {:.2f})".format(*action["action"][row].tolist())


def polar(
    length: Float[Tensor, "N"] | float, half_turns: Float[Tensor, "N"]
) -> Float[Tensor, "N 2"]:
    """Vectors of that length and direction; 0 is along x, 0.5 along y."""
    angle = half_turns * pi
    return torch.stack((length * angle.cos(), length * angle.sin()), 1)
