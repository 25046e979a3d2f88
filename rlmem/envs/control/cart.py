"""Dynamics of Gymnasium's cart-pole (Barto, Sutton and Anderson 1983)."""

from __future__ import annotations

from functools import cache
from math import tau as TURN

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from rlmem.errors import need

GRAVITY, POLE_MASS, MASS, HALF_LENGTH, PUSH, SECONDS = 9.8, 0.1, 1.1, 0.5, 10.0, 0.02
LEVER = HALF_LENGTH * 4 / 3
# The end of the track, and the angle of a fallen pole; observation spaces are twice as large.
LIMITS = (2.4, 12 / 360 * TURN)
# The cost of a full push in the regulator; a tenth or ten times as much works as well.
PUSHING = 0.03


def push(
    motion: Float64[Tensor, "4 N"], pushed: Float64[Tensor, "N"], lever: Float64[Tensor, "N"]
) -> Float64[Tensor, "2 N"]:
    """One step of Euler's method; changes `motion` and `pushed`, returns position and angle.

    `motion` is position, angle (0 is upright) and their velocities. `pushed` is the force divided
    by MASS. `lever` is LEVER in every entry.
    """
    places, speeds = motion.split(2)
    _, angle, speed, spin = motion.unbind()
    sine, cosine = angle.sin(), angle.cos()
    # The acceleration of the cart without the reaction of the pole.
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
    """Gains of a balancing law on the four numbers, in full pushes.

    The linear-quadratic regulator (Anderson and Moore 1990) of one step near the top. Its loss is
    that of `SwingUp` near the top, place^2 / (2 LIMITS[0]^2) + angle^2 / 4, plus PUSHING times the
    squared push.
    """
    need("scipy", "the oracle of the swing-up", "train")
    from scipy.linalg import solve_discrete_are

    swing = HALF_LENGTH * POLE_MASS / MASS
    # Accelerations per angle and per push.
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
    """Pushes that balance the pole and keep the cart in the middle; 1 is a full push."""
    return motion.new_tensor(gains())[None] @ motion
