"""The pendulum of Gymnasium, many at once."""

from __future__ import annotations

from math import pi
from math import tau as TURN
from typing import Any

import torch
from gymnasium.spaces import Box
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.control.pendulum import COST, TORQUE, cost, turn
from rlmem.envs.streams import Draws
from rlmem.envs.tensor_env import LockstepEnv


class Pendulum(LockstepEnv):
    """Angle (0 is upright) and spin [2, N], of which the angle's cosine and sine are seen.

    A step earns 1 / `length` less what angle, spin and torque cost, so that an episode's sum is
    at most 1 and at least -1.
    """

    truncates = True

    def __init__(self, length: int = 200, **options: Any) -> None:
        super().__init__(
            observation_space=Box(-1.0, 1.0, (2,)),
            action_space=Box(-TORQUE, TORQUE, (1,)),
            **options,
        )
        self.length = length
        # A cosine is the sine of a quarter turn more.
        ahead = torch.tensor([TURN / 4, 0], dtype=torch.float64, device=self.device)
        self.ahead = ahead[:, None]

    def start(self, draws: Draws) -> Float64[Tensor, "2 N"]:
        """Any angle, and spins between -1 and 1."""
        motion = draws.uniform64(2).mul_(2).sub_(1)
        motion[0] *= pi
        return motion

    def begin(self, draws: Draws) -> Tensors:
        """Let go of the pendulum."""
        self.motion = self.start(draws)
        return {"obs": self.first_look(self._seen(), draws).t()}

    def play(self, t: int, action: Tensors) -> tuple[Tensors, Float[Tensor, "N"]]:
        """Turn it by `action` for one step."""
        torque = action["action"][:, 0].to(torch.float32).clamp(-TORQUE, TORQUE)
        loss = cost(self.motion).to(torch.float32).addcmul_(torque, torque, value=0.001)
        # At worst twice as much as is there to be earned.
        reward = loss.mul_(-2 / (COST * self.length)).add_(1 / self.length)
        turn(self.motion, self.sine, torque)
        return {"obs": self.look(self._seen()).t()}, reward

    def look(self, seen: Float32[Tensor, "2 N"]) -> Float32[Tensor, "2 N"]:
        """What is seen after a step."""
        return seen

    def first_look(self, seen: Float32[Tensor, "2 N"], draws: Draws) -> Float32[Tensor, "2 N"]:
        """What is seen before the first step."""
        return seen

    def _seen(self) -> Float32[Tensor, "2 N"]:
        both = torch.add(self.ahead, self.motion[0]).sin_()
        self.sine = both[1]
        return both.to(torch.float32)

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """Where the pendulum's end is seen."""
        return "cosine {:+.3f} sine {:+.3f}".format(*obs["obs"][row].tolist())

    def describe_action(self, action: Tensors, row: int) -> str:
        """The torque."""
        return f"torque {float(action['action'][row]):+.2f}"

    def reveal(self, row: int) -> str:
        """Angle and spin."""
        return "angle {:+.3f} spin {:+.3f}".format(*self.motion[:, row].tolist())
