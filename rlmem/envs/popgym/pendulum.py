"""Gymnasium's pendulum, batched."""

from __future__ import annotations

from math import pi
from math import tau as TURN
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.control.pendulum import COST, SPIN, TORQUE, cost, turn
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.tensor_env import LockstepEnv


class Swing(NamedTuple):
    """`motion` is angle (0 is upright) and spin; `sine` of the angle; `seen` is the observation."""

    motion: Float64[Tensor, "2 N"]
    sine: Float64[Tensor, "N"]
    seen: Float32[Tensor, "2 N"]


class Pendulum(LockstepEnv[Swing]):
    """Observations are the cosine and the sine of the angle.

    A step earns 1 / `length` minus the costs of angle, spin and torque. An episode's return is at
    most 1 and at least -1.
    """

    truncates = True

    def __init__(self, length: int = 200, **options: Any) -> None:
        super().__init__(
            observation_space=Box(-1.0, 1.0, (2,)),
            action_space=Box(-TORQUE, TORQUE, (1,)),
            **options,
        )
        self.length = length
        # The cosine is the sine a quarter turn ahead.
        ahead = torch.tensor([TURN / 4, 0], dtype=torch.float64, device=self.device)
        self.ahead = ahead[:, None]

    def initial_motion(self, draws: RandomDraws) -> Float64[Tensor, "2 N"]:
        """Any angle, and spins between -1 and 1."""
        motion = draws.uniform64(2).mul_(2).sub_(1)
        motion[0] *= pi
        return motion

    def initial_state(self, draws: RandomDraws) -> Swing:
        """New episodes."""
        motion = self.initial_motion(draws)
        sine, seen = self._angle(motion)
        return Swing(motion, sine, self.observe_start(seen, draws))

    def transition(self, state: Swing, t: int, action: Tensors) -> tuple[Swing, Float[Tensor, "N"]]:
        """Apply the torque `action` for one step."""
        torque = action["action"][:, 0].to(torch.float32).clamp(-TORQUE, TORQUE)
        loss = cost(state.motion).to(torch.float32).addcmul_(torque, torque, value=0.001)
        # The worst step loses twice as much as a step can earn.
        reward = loss.mul_(-2 / (COST * self.length)).add_(1 / self.length)
        turn(state.motion, state.sine, torque)
        sine, seen = self._angle(state.motion)
        return Swing(state.motion, sine, self.observe_angle(seen)), reward

    def observe(self, state: Swing, t: int) -> Tensors:
        """Cosine and sine of the angle."""
        return {"obs": state.seen.t()}

    def observe_angle(self, seen: Float32[Tensor, "2 N"]) -> Float32[Tensor, "2 N"]:
        """The observation after a step, from cosine and sine."""
        return seen

    def observe_start(
        self, seen: Float32[Tensor, "2 N"], draws: RandomDraws
    ) -> Float32[Tensor, "2 N"]:
        """The observation before the first step, from cosine and sine."""
        return seen

    def _angle(
        self, motion: Float64[Tensor, "2 N"]
    ) -> tuple[Float64[Tensor, "N"], Float32[Tensor, "2 N"]]:
        """The sine of the angle; its cosine and sine in float32."""
        both = torch.add(self.ahead, motion[0]).sin_()
        return both[1], both.to(torch.float32)

    def hidden_space(self) -> Box:
        """Cosine and sine of the angle, and spin."""
        high = np.array([1.0, 1.0, SPIN], np.float32)
        return Box(-high, high)

    def observe_hidden(self, state: Swing, t: int) -> Tensors:
        """The motion without noise."""
        angle, spin = state.motion
        motion = torch.stack([angle.cos(), angle.sin(), spin], dim=1)
        return {"privileged": motion.to(torch.float32)}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The observed cosine and sine."""
        return "cosine {:+.3f} sine {:+.3f}".format(*obs["obs"][row].tolist())

    def describe_action(self, action: Tensors, row: int) -> str:
        """The torque."""
        return f"torque {float(action['action'][row]):+.2f}"

    def reveal(self, row: int) -> str:
        """Angle and spin."""
        return "angle {:+.3f} spin {:+.3f}".format(*self.state.motion[:, row].tolist())
