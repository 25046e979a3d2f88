"""Gymnasium's Pendulum: raise a pendulum and keep it up, with a torque too weak to lift it."""

from __future__ import annotations

from math import pi
from math import tau as TURN

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from rlmem.envs.control.base import Control, between
from rlmem.envs.control.grid import Axis, Grid
from rlmem.envs.counter_rng import RandomDraws

SECONDS, TORQUE, SPIN = 0.05, 2.0, 8.0
# The worst cost, pi^2 + 0.1 SPIN^2 + 0.001 TORQUE^2, as POPGym rounds it.
COST = 16.2736044
GRID = Grid(
    (Axis(-pi, pi, 91, circle=True), Axis(-SPIN, SPIN, 91)),
    choices=(-1.0, -0.5, 0.0, 0.5, 1.0),
    hold=2,
)


def cost(motion: Float64[Tensor, "2 N"]) -> Float64[Tensor, "N"]:
    """The cost of angle (0 is upright) and spin, without that of the torque."""
    angle, spin = motion.unbind()
    turns = angle.mul(1 / TURN).round_()
    upright = torch.add(angle, turns, alpha=-TURN)
    return upright.mul_(upright).addcmul_(spin, spin, value=0.1)


def turn(motion: Float64[Tensor, "2 N"], sine: Float64[Tensor, "N"], torque: Tensor) -> None:
    """One Euler step in place, given the sine of the angle; `torque` is changed too."""
    angle, spin = motion.unbind()
    spin.add_(sine, alpha=15 * SECONDS).add_(torque.mul_(3), alpha=SECONDS)
    angle.add_(spin.clamp_(-SPIN, SPIN), alpha=SECONDS)


class Pendulum(Control):
    """The state is angle and spin. A step is worth 1 - cost / (worst cost). Episodes never end."""

    numbers = 2
    scale = (1.0, 1.0, 4.0)

    def initial_state(self, draws: RandomDraws) -> Float64[Tensor, "2 M"]:
        """Any angle, and spins between -1 and 1."""
        return between(draws, (-pi, pi), (-1.0, 1.0))

    def transition(
        self, state: Float64[Tensor, "2 N"], control: Float64[Tensor, "1 N"]
    ) -> tuple[Float64[Tensor, "2 N"], Float64[Tensor, "N"], Bool[Tensor, "N"]]:
        """Apply a torque."""
        torque = control[0] * TORQUE
        worth = cost(state).addcmul_(torque, torque, value=0.001).mul_(-1 / COST).add_(1)
        turn(state, state[0].sin(), torque)
        return state, worth, torch.zeros_like(worth, dtype=torch.bool)

    def observe(self, state: Float64[Tensor, "2 N"]) -> Float64[Tensor, "3 N"]:
        """The angle's cosine and sine, and the spin."""
        angle, spin = state.unbind()
        return torch.stack((angle.cos(), angle.sin(), spin))

    def steer(self, state: Float64[Tensor, "2 N"]) -> Float64[Tensor, "1 N"]:
        """Dynamic programming."""
        return GRID.steer(self, state)
