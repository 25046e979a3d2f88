"""PositionOnlyCartPole: balance a pole without observing velocities."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from jaxtyping import Float32, Float64
from torch import Tensor

from rlmem.envs.control.cart import LIMITS
from rlmem.envs.popgym.cartpole import CartPole
from rlmem.envs.popgym.task import task

SIGHT = 2 * np.array(LIMITS, np.float32)


@task(
    "popgym-position-only-cartpole",
    package="PositionOnlyCartPole",
    previous_action=True,
    easy={"length": 200},
    medium={"length": 400},
    hard={"length": 600},
)
class PositionOnlyCartPole(CartPole):
    """Observations are the cart's position and the pole's angle."""

    def __init__(self, **options: Any) -> None:
        super().__init__(observation_space=Box(-SIGHT, SIGHT), **options)

    def observe_motion(self, motion: Float64[Tensor, "4 N"]) -> Float32[Tensor, "2 N"]:
        """Position and angle."""
        return motion[:2].to(torch.float32)
