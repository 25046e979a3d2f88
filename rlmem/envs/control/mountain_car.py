"""Gymnasium's MountainCar (Moore 1990): leave a valley with an engine too weak for the slope."""

from __future__ import annotations

from jaxtyping import Bool, Float64
from torch import Tensor

from rlmem.envs.control.base import Control, between, third
from rlmem.envs.control.grid import Axis, Grid
from rlmem.envs.counter_rng import RandomDraws

LEFT, RIGHT, GOAL, FASTEST, FORCE, GRAVITY = -1.2, 0.6, 0.5, 0.07, 0.001, 0.0025
GRID = Grid((Axis(LEFT, RIGHT, 121), Axis(-FASTEST, FASTEST, 81)), choices=(-1.0, 1.0), hold=5)


class MountainCar(Control):
    """The state is position and speed. The engine pulls left, not at all, or right.

    A step is worth the height of the car, 0 in the valley and 1 at the top. Reaching the goal
    solves the task.
    """

    numbers = 2
    scale = (0.5, 0.03)
    # At full speed from the closest start.
    shortest = 13
    solved = True

    def initial_state(self, draws: RandomDraws) -> Float64[Tensor, "2 M"]:
        """In the valley, at rest."""
        return between(draws, (-0.6, -0.4), (0.0, 0.0))

    def transition(
        self, state: Float64[Tensor, "2 N"], control: Float64[Tensor, "1 N"]
    ) -> tuple[Float64[Tensor, "2 N"], Float64[Tensor, "N"], Bool[Tensor, "N"]]:
        """Use the engine."""
        place, speed = state.unbind()
        speed.add_(third(control[0]), alpha=FORCE).sub_((3 * place).cos_(), alpha=GRAVITY)
        speed.clamp_(-FASTEST, FASTEST)
        place.add_(speed).clamp_(LEFT, RIGHT)
        speed.masked_fill_((place == LEFT) & (speed < 0), 0)
        arrived = (place >= GOAL) & (speed >= 0)
        return state, (3 * place).sin_().add_(1).mul_(0.5), arrived

    def observe(self, state: Float64[Tensor, "2 N"]) -> Float64[Tensor, "2 N"]:
        """Position and speed."""
        return state.clone()

    def steer(self, state: Float64[Tensor, "2 N"]) -> Float64[Tensor, "1 N"]:
        """Dynamic programming. Pulling in the direction of motion arrives too, but earns less."""
        return GRID.steer(self, state)
