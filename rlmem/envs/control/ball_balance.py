"""Ball balance: keep a ball in the middle of a plate by tilting it in two directions."""

from __future__ import annotations

from math import sin

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from rlmem.envs.control.base import Control, approach, between, near
from rlmem.envs.counter_rng import RandomDraws

GRAVITY, SECONDS = 9.8, 0.02
# A rolling ball has the inertia 2/5 m r^2, so it accelerates by only 5/7 of a sliding one.
ROLLING = 5 / 7
# Half the side of the plate; the largest tilt and tilt rate. HALF: distance with worth 1/2.
EDGE, TILT, RATE = 1.0, 0.25, 1.5
HALF = 0.25
# Constants of the law, found by trial: the deceleration, lower than at the largest tilt because
# tilting back takes time; the slope of `approach`; the gain on missing speed.
BRAKE, SLOPE, HASTE = 0.7 * ROLLING * GRAVITY * sin(TILT), 4.0, 8.0


def slope(
    place: Float64[Tensor, "2 N"], tilt: Float64[Tensor, "2 N"], rate: Float64[Tensor, "2 N"]
) -> Float64[Tensor, "2 N"]:
    """The ball's acceleration: 5/7 (w (w . x) - g sin(tilt)), with the tilt rates w.

    The first term is the centrifugal acceleration of the turning plate (Awtar et al. 2002,
    "Mechatronic design of a ball-on-plate balancing system").
    """
    along = (rate * place).sum(0)
    return rate.mul(along).sub_(tilt.sin(), alpha=GRAVITY).mul_(ROLLING)


class BallBalance(Control):
    """The state is the position and velocity of the ball on the plate, and the tilts of the plate.

    Controls are tilt rates. A step is worth more the closer the ball is to the middle. If the ball
    falls off the plate, the episode ends.
    """

    numbers = 6
    scale = (0.5, 0.5, 1.0, 1.0, 0.2, 0.2)
    controls = 2
    # From 0.5 m and 0.2 m/s with an acceleration of at most 2 m/s^2, all directed outward.
    shortest = 20

    def initial_state(self, draws: RandomDraws) -> Float64[Tensor, "6 M"]:
        """Within half the distance to the edge, rolling slowly, on a nearly level plate."""
        bounds = [(-0.5, 0.5)] * 2 + [(-0.2, 0.2)] * 2 + [(-0.05, 0.05)] * 2
        return between(draws, *bounds)

    def transition(
        self, state: Float64[Tensor, "6 N"], control: Float64[Tensor, "2 N"]
    ) -> tuple[Float64[Tensor, "6 N"], Float64[Tensor, "N"], Bool[Tensor, "N"]]:
        """Change the tilts, then one semi-implicit Euler step."""
        place, speed, tilt = state.split(2)
        before = tilt.clone()
        tilt.add_(control, alpha=RATE * SECONDS).clamp_(-TILT, TILT)
        speed.add_(slope(place, tilt, (tilt - before).div_(SECONDS)), alpha=SECONDS)
        place.add_(speed, alpha=SECONDS)
        worth = near(torch.linalg.vector_norm(place, dim=0), HALF)
        return state, worth, (place.abs() > EDGE).any(0)

    def observe(self, state: Float64[Tensor, "6 N"]) -> Float64[Tensor, "6 N"]:
        """The state itself."""
        return state.clone()

    def steer(self, state: Float64[Tensor, "6 N"]) -> Float64[Tensor, "2 N"]:
        """For each axis: the speed of `approach`, and the tilt needed to reach it."""
        place, speed, tilt = state.split(2)
        force = HASTE * (approach(-place, BRAKE, SLOPE) - speed)
        steep = (force / (-ROLLING * GRAVITY)).clamp_(-TILT, TILT)
        return (steep - tilt).div_(RATE * SECONDS).clamp_(-1, 1)
