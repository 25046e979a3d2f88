"""NoisyPositionOnlyCartPole: balance a pole from noisy positions."""

from __future__ import annotations

from jaxtyping import Float32, Float64
from torch import Tensor

from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.popgym.noise import Noisy
from rlmem.envs.popgym.position_only_cartpole import PositionOnlyCartPole
from rlmem.envs.popgym.task import task


@task(
    "popgym-noisy-position-only-cartpole",
    package="NoisyPositionOnlyCartPole",
    previous_action=True,
    easy={"sigma": 0.1},
    medium={"sigma": 0.2},
    hard={"sigma": 0.3},
)
class NoisyPositionOnlyCartPole(Noisy, PositionOnlyCartPole):
    """Observations are the cart's position and the pole's angle, both with noise."""

    def observe_motion(self, motion: Float64[Tensor, "4 N"]) -> Float32[Tensor, "2 N"]:
        """Position and angle with noise."""
        return self.blur(super().observe_motion(motion), self.noise())

    def observe_start(
        self, motion: Float64[Tensor, "4 M"], draws: RandomDraws
    ) -> Float32[Tensor, "2 M"]:
        """Position and angle with noise."""
        return self.blur(super().observe_start(motion, draws), self.first_noise(draws))
