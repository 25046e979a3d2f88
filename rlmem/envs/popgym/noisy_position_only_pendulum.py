"""NoisyPositionOnlyPendulum: swing up a pendulum from noisy positions."""

from __future__ import annotations

from jaxtyping import Float32
from torch import Tensor

from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.popgym.noise import Noisy
from rlmem.envs.popgym.pendulum import Pendulum
from rlmem.envs.popgym.task import task


@task(
    "popgym-noisy-position-only-pendulum",
    package="NoisyPositionOnlyPendulum",
    previous_action=True,
    easy={"sigma": 0.1},
    medium={"sigma": 0.2},
    hard={"sigma": 0.3},
)
class NoisyPositionOnlyPendulum(Noisy, Pendulum):
    """Observations are the cosine and the sine of the angle, both with noise."""

    def observe_angle(self, seen: Float32[Tensor, "2 N"]) -> Float32[Tensor, "2 N"]:
        """Cosine and sine with noise."""
        return self.blur(seen, self.noise())

    def observe_start(
        self, seen: Float32[Tensor, "2 N"], draws: RandomDraws
    ) -> Float32[Tensor, "2 N"]:
        """Cosine and sine with noise."""
        return self.blur(seen, self.first_noise(draws))
