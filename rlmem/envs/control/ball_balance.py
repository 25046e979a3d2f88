"""Ball balance: keep a ball in the middle of a plate that can be tilted both ways."""

from __future__ import annotations

from math import sin

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from rlmem.envs.control.base import Control, approach, between, near
from rlmem.envs.streams import Draws

GRAVITY, SECONDS = 9.8, 0.02
# A rolling ball has 2/5 of its mass times the square of its radius as inertia: it falls slower.
ROLLING = 5 / 7
# Half of the plate's side; how far and how fast the plate may be tilted.
EDGE, TILT, RATE = 1.0, 0.25, 1.5
HALF = 0.25
# To brake with, the steepest tilt but for what it takes to tilt back; found by trial, as are the
# slope of `approach` and how much harder to roll for each m/s that is missing.
BRAKE, SLOPE, HASTE = 0.7 * ROLLING * GRAVITY * sin(TILT), 4.0, 8.0


def slope(
    place: Float64[Tensor, "2 N"], tilt: Float64[Tensor, "2 N"], rate: Float64[Tensor, "2 N"]
) -> Float64[Tensor, "2 N"]:
    """The ball's acceleration: 5/7 (w (w . x) - g sin(tilt)), w being the rates of the tilts.

    The plate carries it outward where it turns (Awtar et al. 2002, "Mechatronic design of a
    ball-on-plate balancing system").
    """
    along = (rate * place).sum(0)
    return rate.mul(along).sub_(tilt.sin(), alpha=GRAVITY).mul_(ROLLING)


class BallBalance(Control):
    """The ball's place and velocity on the plate, and the plate's tilts.

    Controls say how fast the tilts change. A step is worth more the nearer the ball is to the
    middle; a ball that falls off the plate ends the episode.
    """

    numbers = 6
    scale = (0.5, 0.5, 1.0, 1.0, 0.2, 0.2)
    controls = 2
    # At most 2 m/s^2 from at most 0.5 m and 0.2 m/s, all directed outward.
    shortest = 20

    def start(self, draws: Draws) -> Float64[Tensor, "6 M"]:
        """Somewhere between middle and edge, rolling slowly, on a plate that is nearly level."""
        bounds = [(-0.5, 0.5)] * 2 + [(-0.2, 0.2)] * 2 + [(-0.05, 0.05)] * 2
        return between(draws, *bounds)

    def move(
        self, state: Float64[Tensor, "6 N"], control: Float64[Tensor, "2 N"]
    ) -> tuple[Float64[Tensor, "6 N"], Float64[Tensor, "N"], Bool[Tensor, "N"]]:
        """A change of the tilts, then a step of the semi-implicit method of Euler."""
        place, speed, tilt = state.split(2)
        before = tilt.clone()
        tilt.add_(control, alpha=RATE * SECONDS).clamp_(-TILT, TILT)
        speed.add_(slope(place, tilt, (tilt - before).div_(SECONDS)), alpha=SECONDS)
        place.add_(speed, alpha=SECONDS)
        worth = near(torch.linalg.vector_norm(place, dim=0), HALF)
        return state, worth, (place.abs() > EDGE).any(0)

    def see(self, state: Float64[Tensor, "6 N"]) -> Float64[Tensor, "6 N"]:
        """All six numbers."""
        return state.clone()

    def steer(self, state: Float64[Tensor, "6 N"]) -> Float64[Tensor, "2 N"]:
        """Each axis by itself: the speed of `approach`, by the tilt that it takes."""
        place, speed, tilt = state.split(2)
        force = HASTE * (approach(-place, BRAKE, SLOPE) - speed)
        steep = (force / (-ROLLING * GRAVITY)).clamp_(-TILT, TILT)
        return (steep - tilt).div_(RATE * SECONDS).clamp_(-1, 1)
