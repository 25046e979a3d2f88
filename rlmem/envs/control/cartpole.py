"""Gymnasium's CartPole: balance a pole by pushing its cart left or right."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from rlmem.envs.control.base import Control, between
from rlmem.envs.control.cart import LEVER, LIMITS, MASS, PUSH, balance, push
from rlmem.envs.counter_rng import RandomDraws


class CartPole(Control):
    """The state is position, angle and their velocities. A step is worth 1; a fallen pole, or
    leaving the track, ends the episode.

    A control below 0 pushes to the left, any other to the right.
    """

    numbers = 4
    scale = (1.0, 1.0, 0.1, 1.0)
    # From the worst start, with pushes in one direction, the pole falls in step 8.
    shortest = 8

    def initial_state(self, draws: RandomDraws) -> Float64[Tensor, "4 M"]:
        """Cart and pole near the middle, almost at rest."""
        return between(draws, *[(-0.05, 0.05)] * 4)

    def transition(
        self, state: Float64[Tensor, "4 N"], control: Float64[Tensor, "1 N"]
    ) -> tuple[Float64[Tensor, "4 N"], Float64[Tensor, "N"], Bool[Tensor, "N"]]:
        """Push the cart."""
        pushed = (control[0] >= 0).to(state.dtype).mul_(2).sub_(1).mul_(PUSH / MASS)
        lost, fallen = push(state, pushed, torch.full_like(pushed, LEVER)).abs().unbind()
        return state, torch.ones_like(pushed), (lost > LIMITS[0]) | (fallen > LIMITS[1])

    def observe(self, state: Float64[Tensor, "4 N"]) -> Float64[Tensor, "4 N"]:
        """Position, its velocity, angle, its velocity."""
        place, angle, speed, spin = state.unbind()
        return torch.stack((place, speed, angle, spin))

    def steer(self, state: Float64[Tensor, "4 N"]) -> Float64[Tensor, "1 N"]:
        """The sign of the control is that of the best linear law."""
        return balance(state).clamp_(-1, 1)
