"""VelocityOnlyCartPole: balance a pole without seeing where anything is."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Box
from jaxtyping import Float32, Float64
from torch import Tensor

from rlmem.envs.popgym.cartpole import CartPole
from rlmem.envs.popgym.task import task


@task(
    "popgym-velocity-only-cartpole",
    package="VelocityOnlyCartPole",
    previous_action=True,
    easy={"length": 200},
    medium={"length": 400},
    hard={"length": 600},
)
class VelocityOnlyCartPole(CartPole):
    """Sees how fast the cart moves and the pole turns, but position and angle at the start.

    That is what the package shows there.
    """

    def __init__(self, **options: Any) -> None:
        space = Box(-float("inf"), float("inf"), (2,))
        super().__init__(observation_space=space, **options)

    def look(self, motion: Float64[Tensor, "4 N"]) -> Float32[Tensor, "2 N"]:
        """The two velocities."""
        return motion[2:].to(torch.float32)
