"""Cart-pole swing-up: raise a hanging pole and keep it up by pushing its cart."""

from __future__ import annotations

from math import pi

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from rlmem.envs.control.base import Control, between, wrapped
from rlmem.envs.control.cart import LEVER, LIMITS, MASS, PUSH, balance, push
from rlmem.envs.control.grid import Axis, Grid
from rlmem.envs.counter_rng import RandomDraws

# Higher speeds do not help: the cart must stay on the track and the pole upright.
GRID = Grid(
    (
        Axis(-LIMITS[0], LIMITS[0], 13),
        Axis(-pi, pi, 25, circle=True),
        Axis(-4.0, 4.0, 11),
        Axis(-10.0, 10.0, 21),
    ),
    choices=(-1.0, -0.5, 0.0, 0.5, 1.0),
    hold=3,
)
# The largest angle at which the linear law balances the pole.
CATCH = 0.5


class SwingUp(Control):
    """The cart-pole of `CartPole` with a hanging pole at first, and pushes of any strength.

    A step is worth the height of the pole's tip, reduced far from the middle of the track, as in
    the DeepMind control suite's task (Tassa et al. 2018). Leaving the track ends the episode.
    """

    numbers = 4
    scale = (1.0, 2.0, 1.0, 1.0, 4.0)
    # With pushes in one direction the cart leaves the track in step 35; a swinging pole helps
    # little.
    shortest = 30

    def initial_state(self, draws: RandomDraws) -> Float64[Tensor, "4 M"]:
        """Cart in the middle, pole hanging nearly straight, both almost at rest."""
        return between(draws, (-0.05, 0.05), (pi - 0.1, pi + 0.1), (-0.05, 0.05), (-0.05, 0.05))

    def transition(
        self, state: Float64[Tensor, "4 N"], control: Float64[Tensor, "1 N"]
    ) -> tuple[Float64[Tensor, "4 N"], Float64[Tensor, "N"], Bool[Tensor, "N"]]:
        """Push the cart."""
        place, angle = push(state, control[0] * (PUSH / MASS), torch.full_like(control[0], LEVER))
        place = place.abs()
        middle = place.clamp(max=LIMITS[0]).div_(LIMITS[0]).square_().neg_().add_(2)
        return state, angle.cos().add_(1).mul_(middle).mul_(0.25), place > LIMITS[0]

    def observe(self, state: Float64[Tensor, "4 N"]) -> Float64[Tensor, "5 N"]:
        """Position, its velocity, the angle's cosine and sine, its velocity."""
        place, angle, speed, spin = state.unbind()
        return torch.stack((place, speed, angle.cos(), angle.sin(), spin))

    def steer(self, state: Float64[Tensor, "4 N"]) -> Float64[Tensor, "1 N"]:
        """Dynamic programming; near the top, where the grid is too coarse, the linear law."""
        place, angle, *speeds = state.unbind()
        angle = wrapped(angle)
        push = balance(torch.stack((place, angle, *speeds)))
        near = (push.abs() < 1) & (angle.abs() < CATCH)
        return torch.where(near, push, GRID.steer(self, state))
