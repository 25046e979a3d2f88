"""The cart and the pole of Gymnasium (Barto, Sutton and Anderson 1983), one step of them."""

from __future__ import annotations

from math import tau as TURN

from jaxtyping import Float64
from torch import Tensor

GRAVITY, POLE_MASS, MASS, HALF_LENGTH, PUSH, SECONDS = 9.8, 0.1, 1.1, 0.5, 10.0, 0.02
LEVER = HALF_LENGTH * 4 / 3
# Where the cart leaves the track, and the pole counts as fallen; what is seen may be twice as far.
LIMITS = (2.4, 12 / 360 * TURN)


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
