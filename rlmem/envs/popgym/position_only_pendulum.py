"""PositionOnlyPendulum: swing up a pendulum without observing its velocity."""

from __future__ import annotations

from rlmem.envs.popgym.pendulum import Pendulum
from rlmem.envs.popgym.task import task


@task(
    "popgym-position-only-pendulum",
    package="PositionOnlyPendulum",
    previous_action=True,
    easy={"length": 200},
    medium={"length": 150},
    hard={"length": 100},
)
class PositionOnlyPendulum(Pendulum):
    """Observations are the cosine and the sine of the angle."""
