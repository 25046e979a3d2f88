"""The cart and the pole of Gymnasium (Barto, Sutton and Anderson 1983), one step of them."""

from __future__ import annotations

from functools import cache
from math import tau as TURN

import numpy as np
from jaxtyping import Float64
from torch import Tensor

GRAVITY, POLE_MASS, MASS, HALF_LENGTH, PUSH, SECONDS = 9.8, 0.1, 1.1, 0.5, 10.0, 0.02
LEVER = HALF_LENGTH * 4 / 3
# Where the cart leaves the track, and the pole counts as fallen; what is seen may be twice as far.
LIMITS = (2.4, 12 / 360 * TURN)
# What a full push costs whoever plans how to balance; a tenth or ten times as much does as well.
PUSHING = 0.03


def push(
    motion: Float64[Tensor, "4 N"], pushed: Float64[Tensor, "N"], lever: Float64[Tensor, "N"]
) -> Float64[Tensor, "2 N"]:
    """A step of Euler's method; `motion` and `pushed` are changed.

    `motion` is position and angle (0 is upright), then their velocities, of which the first two are
    returned. `pushed` is the force over MASS, and `lever` is LEVER everywhere.
    """
    places, speeds = motion.split(2)
    _, angle, speed, spin = motion.unbind()
    sine, cosine = angle.sin(), angle.cos()
    # The acceleration that the cart would have if the pole did not swing back.
    pushed.addcmul_(spin * spin, sine, value=POLE_MASS * HALF_LENGTH / MASS)
    lever = lever.addcmul(cosine, cosine, value=-HALF_LENGTH * POLE_MASS / MASS)
    turn = sine.mul_(GRAVITY).addcmul_(cosine, pushed, value=-1).div_(lever)
    places.add_(speeds, alpha=SECONDS)
    pushed.addcmul_(turn, cosine, value=-POLE_MASS * HALF_LENGTH / MASS)
    speed.add_(pushed, alpha=SECONDS)
    spin.add_(turn, alpha=SECONDS)
    return places


@cache
def gains() -> tuple[float, ...]:
    """What a full push is to be of each of the four numbers, to keep cart and pole upright.

    The linear-quadratic regulator (Anderson and Moore 1990) of a step near the top. What is lost
    there is what `SwingUp` loses, place^2 / (2 LIMITS[0]^2) + angle^2 / 4, and PUSHING for pushes.
    """
    from scipy.linalg import solve_discrete_are

    swing = HALF_LENGTH * POLE_MASS / MASS
    # Accelerations by angle and push.
    turn = np.array([GRAVITY, -PUSH / MASS]) / (LEVER - swing)
    drift = np.array([0, PUSH / MASS]) - swing * turn
    step, pushed = np.eye(4), np.zeros((4, 1))
    step[[0, 1], [2, 3]] = SECONDS
    step[2:, 1], pushed[2:, 0] = np.stack((drift, turn), 1) * SECONDS
    loss = np.diag([0.5 / LIMITS[0] ** 2, 0.25, 0, 0])
    future = solve_discrete_are(step, pushed, loss, [[PUSHING]])
    ahead = pushed.T @ future
    return tuple(np.linalg.solve(ahead @ pushed + PUSHING, -ahead @ step)[0].tolist())


def balance(motion: Float64[Tensor, "4 N"]) -> Float64[Tensor, "1 N"]:
    """Pushes that keep cart and pole upright, 1 being a full one; they may be more."""
    return motion.new_tensor(gains())[None] @ motion
