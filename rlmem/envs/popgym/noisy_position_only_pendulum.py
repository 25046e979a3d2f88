"""NoisyPositionOnlyPendulum: swing up a pendulum whose place is seen through noise only."""

from __future__ import annotations

from jaxtyping import Float32
from torch import Tensor

from rlmem.envs.popgym.noise import Noisy
from rlmem.envs.popgym.pendulum import Pendulum
from rlmem.envs.popgym.task import task
from rlmem.envs.streams import Draws


@task(
    "popgym-noisy-position-only-pendulum",
    package="NoisyPositionOnlyPendulum",
    previous_action=True,
    easy={"sigma": 0.1},
    medium={"sigma": 0.2},
    hard={"sigma": 0.3},
)
class NoisyPositionOnlyPendulum(Noisy, Pendulum):
    """Sees the cosine and the sine of the angle, both with noise."""

    def look(self, seen: Float32[Tensor, "2 N"]) -> Float32[Tensor, "2 N"]:
        """Cosine and sine with noise."""
        return self.blur(seen, self.noise())

    def first_look(self, seen: Float32[Tensor, "2 N"], draws: Draws) -> Float32[Tensor, "2 N"]:
        """Cosine and sine with noise."""
        return self.blur(seen, self.first_noise(draws))
