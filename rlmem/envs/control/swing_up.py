"""Cart-pole swing-up: raise a hanging pole and keep it up by pushes to its cart."""

from __future__ import annotations

from math import pi

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from rlmem.envs.control.base import Control, between, wrapped
from rlmem.envs.control.cart import LEVER, LIMITS, MASS, PUSH, balance, push
from rlmem.envs.control.grid import Axis, Grid
from rlmem.envs.streams import Draws

# To be faster helps nobody, who is to stay on the track and upright.
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
# From which angle on the pole may be balanced by a linear law.
CATCH = 0.5


class SwingUp(Control):
    """Cart and pole of `CartPole`, the pole hanging at first, pushed as hard as the control says.

    A step is worth the height of the pole's end, less where the cart is far from the middle, as in
    the DeepMind control suite's task (Tassa et al. 2018). To leave the track ends the episode.
    """

    numbers = 4
    scale = (1.0, 2.0, 1.0, 1.0, 4.0)
    # Pushed one way only, the cart leaves the track in step 35; a pole that swings helps little.
    shortest = 30

    def start(self, draws: Draws) -> Float64[Tensor, "4 M"]:
        """In the middle, the pole hanging nearly straight, both almost at rest."""
        return between(draws, (-0.05, 0.05), (pi - 0.1, pi + 0.1), (-0.05, 0.05), (-0.05, 0.05))

    def move(
        self, state: Float64[Tensor, "4 N"], control: Float64[Tensor, "1 N"]
    ) -> tuple[Float64[Tensor, "4 N"], Float64[Tensor, "N"], Bool[Tensor, "N"]]:
        """A push."""
        place, angle = push(state, control[0] * (PUSH / MASS), torch.full_like(control[0], LEVER))
        place = place.abs()
        middle = place.clamp(max=LIMITS[0]).div_(LIMITS[0]).square_().neg_().add_(2)
        return state, angle.cos().add_(1).mul_(middle).mul_(0.25), place > LIMITS[0]

    def see(self, state: Float64[Tensor, "4 N"]) -> Float64[Tensor, "5 N"]:
        """Position, its velocity, the angle's cosine and sine, its velocity."""
        place, angle, speed, spin = state.unbind()
        return torch.stack((place, speed, angle.cos(), angle.sin(), spin))

    def steer(self, state: Float64[Tensor, "4 N"]) -> Float64[Tensor, "1 N"]:
        """Dynamic programming, and the linear law near the top, where the grid is too coarse."""
        place, angle, *speeds = state.unbind()
        angle = wrapped(angle)
        push = balance(torch.stack((place, angle, *speeds)))
        near = (push.abs() < 1) & (angle.abs() < CATCH)
        return torch.where(near, push, GRID.steer(self, state))
