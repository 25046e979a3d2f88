"""Gymnasium's cart-pole (Barto, Sutton and Anderson 1983), batched."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Box, Discrete
from jaxtyping import Bool, Float, Float32, Float64, Int16
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.control.cart import LEVER, LIMITS, MASS, PUSH, push
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.tensor_env import StateEnv
from rlmem.spaces.unit_box import UnitBox


class Run(NamedTuple):
    """`motion` is position, angle, speed, spin (the velocities); `seen` is the observation."""

    motion: Float64[Tensor, "4 N"]
    seen: Float32[Tensor, "2 N"]
    steps: Int16[Tensor, "N"]


class CartPole(StateEnv[Run]):
    """Each step earns 1 / `length`, also the step in which the pole falls."""

    # From the worst start, with pushes in one direction, the pole falls in step 8.
    shortest = 8
    spares = 8
    axis = -1

    def __init__(self, observation_space: Box, length: int = 200, **options: Any) -> None:
        super().__init__(observation_space=observation_space, action_space=Discrete(2), **options)
        # Tensors, because making one from a number in every step takes as long as using it.
        self.length, self.one = torch.tensor([length, 1], dtype=torch.int16, device=self.device)
        self.limits = torch.tensor(LIMITS, dtype=torch.float64, device=self.device)[:, None]
        self.reward = torch.full((self.num_envs,), 1 / length, device=self.device)
        self.leftward = torch.full_like(self.reward, -PUSH / MASS, dtype=torch.float64)
        self.lever = torch.full_like(self.leftward, LEVER)

    @abstractmethod
    def observe_motion(self, motion: Float64[Tensor, "4 N"]) -> Float32[Tensor, "2 N"]:
        """The observation after a step; a new tensor."""

    def observe_start(
        self, motion: Float64[Tensor, "4 M"], draws: RandomDraws
    ) -> Float32[Tensor, "2 M"]:
        """The observation before the first step: position and angle."""
        return motion[:2].to(torch.float32)

    def initial_motion(self, draws: RandomDraws) -> Float64[Tensor, "4 M"]:
        """Cart and pole near the middle, almost at rest."""
        return draws.uniform64(4).sub_(0.5).mul_(0.1)

    def initial_state(self, draws: RandomDraws) -> Run:
        """New episodes."""
        motion = self.initial_motion(draws)
        steps = torch.zeros(draws.size, dtype=torch.int16, device=self.device)
        return Run(motion, self.observe_start(motion, draws), steps)

    def transition(
        self, state: Run, action: Tensors
    ) -> tuple[Run, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """A push. Leaving the track or a fallen pole terminates; `length` steps truncate."""
        motion, steps = state.motion, state.steps.add_(self.one)
        places = self.push(motion, action["action"])
        lost, fallen = (places.abs() > self.limits).unbind()
        ended = lost.logical_or_(fallen), steps == self.length
        return Run(motion, self.observe_motion(motion), steps), self.reward.clone(), *ended

    def push(self, motion: Float64[Tensor, "4 N"], action: Tensor) -> Float64[Tensor, "2 N"]:
        """One step of Euler's method, in place. Returns position and angle after it."""
        pushed = torch.add(self.leftward, action, alpha=2 * PUSH / MASS)
        return push(motion, pushed, self.lever)

    def observe(self, state: Run) -> Tensors:
        """The two observed numbers."""
        return {"obs": state.seen.clone().t()}

    def hidden_space(self) -> UnitBox:
        """Position, angle and both velocities."""
        return UnitBox(-float("inf"), float("inf"), (4,))

    def observe_hidden(self, state: Run) -> Tensors:
        """The motion without noise."""
        return {"privileged": state.motion.t().to(torch.float32)}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The two observed numbers."""
        return "{:+.3f} {:+.3f}".format(*obs["obs"][row].tolist())

    def describe_action(self, action: Tensors, row: int) -> str:
        """The direction of the push."""
        return "right" if action["action"][row] else "left"

    def reveal(self, row: int) -> str:
        """Position, angle and both velocities."""
        names = "position {:+.3f} angle {:+.3f} speed {:+.3f} spin {:+.3f}"
        return names.format(*self.state.motion[:, row].tolist())
