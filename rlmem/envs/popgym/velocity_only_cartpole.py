"""VelocityOnlyCartPole: balance a pole without observing positions."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from rlmem.envs.popgym.cartpole import CartPole
from rlmem.envs.popgym.task import task
from rlmem.spaces.unit_box import UnitBox


@task(
    "popgym-velocity-only-cartpole",
    package="VelocityOnlyCartPole",
    previous_action=True,
    easy={"length": 200},
    medium={"length": 400},
    hard={"length": 600},
)
class VelocityOnlyCartPole(CartPole):
    """Observations are both velocities, but position and angle at the start, as in the package."""

    def __init__(self, **options: Any) -> None:
        space = UnitBox(-float("inf"), float("inf"), (2,))
        super().__init__(observation_space=space, **options)

    def observe_motion(self, motion: Float64[Tensor, "4 N"]) -> Float32[Tensor, "2 N"]:
        """The two velocities."""
        return motion[2:].to(torch.float32)
