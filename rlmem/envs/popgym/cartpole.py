"""The cart and the pole of Gymnasium (Barto, Sutton and Anderson 1983), many at once."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Box, Discrete
from jaxtyping import Bool, Float, Float32, Float64, Int16
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.control.cart import LEVER, LIMITS, MASS, PUSH, push
from rlmem.envs.streams import Draws
from rlmem.envs.tensor_env import StateEnv


class Run(NamedTuple):
    """An episode: position and angle, then their velocities [4, N]; what is seen of them [2, N]."""

    motion: Float64[Tensor, "4 N"]
    seen: Float32[Tensor, "2 N"]
    steps: Int16[Tensor, "N"]


class CartPole(StateEnv[Run]):
    """Each step that is played earns 1 / `length`, the one in which the pole falls as well."""

    # From the worst start, pushed one way only, the pole falls in step 8.
    shortest = 8
    spares = 8
    axis = -1

    def __init__(self, observation_space: Box, length: int = 200, **options: Any) -> None:
        super().__init__(observation_space=observation_space, action_space=Discrete(2), **options)
        # As tensors, since to make one of a number in every step would take as long as to use it.
        self.length, self.one = torch.tensor([length, 1], dtype=torch.int16, device=self.device)
        self.limits = torch.tensor(LIMITS, dtype=torch.float64, device=self.device)[:, None]
        self.reward = torch.full((self.num_envs,), 1 / length, device=self.device)
        self.leftward = torch.full_like(self.reward, -PUSH / MASS, dtype=torch.float64)
        self.lever = torch.full_like(self.leftward, LEVER)

    @abstractmethod
    def look(self, motion: Float64[Tensor, "4 N"]) -> Float32[Tensor, "2 N"]:
        """What is seen after a step; a new tensor."""

    def first_look(self, motion: Float64[Tensor, "4 M"], draws: Draws) -> Float32[Tensor, "2 M"]:
        """What is seen before the first step: position and angle."""
        return motion[:2].to(torch.float32)

    def start(self, draws: Draws) -> Float64[Tensor, "4 M"]:
        """Cart and pole near the middle, almost at rest."""
        return draws.uniform64(4).sub_(0.5).mul_(0.1)

    def draw(self, draws: Draws) -> Run:
        """Episodes that begin."""
        motion = self.start(draws)
        steps = torch.zeros(draws.size, dtype=torch.int16, device=self.device)
        return Run(motion, self.first_look(motion, draws), steps)

    def advance(
        self, state: Run, action: Tensors
    ) -> tuple[Run, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """A push; a cart off the track or a fallen pole terminates, `length` steps truncate."""
        motion, steps = state.motion, state.steps.add_(self.one)
        places = self.push(motion, action["action"])
        lost, fallen = (places.abs() > self.limits).unbind()
        ended = lost.logical_or_(fallen), steps == self.length
        return Run(motion, self.look(motion), steps), self.reward.clone(), *ended

    def push(self, motion: Float64[Tensor, "4 N"], action: Tensor) -> Float64[Tensor, "2 N"]:
        """A step of Euler's method, in place; position and angle after it."""
        pushed = torch.add(self.leftward, action, alpha=2 * PUSH / MASS)
        return push(motion, pushed, self.lever)

    def observe(self, state: Run) -> Tensors:
        """Two numbers."""
        return {"obs": state.seen.clone().t()}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The two numbers that are seen."""
        return "{:+.3f} {:+.3f}".format(*obs["obs"][row].tolist())

    def describe_action(self, action: Tensors, row: int) -> str:
        """Which way the cart is pushed."""
        return "right" if action["action"][row] else "left"

    def reveal(self, row: int) -> str:
        """All four numbers of the motion."""
        names = "position {:+.3f} angle {:+.3f} speed {:+.3f} spin {:+.3f}"
        return names.format(*self.state.motion[:, row].tolist())
