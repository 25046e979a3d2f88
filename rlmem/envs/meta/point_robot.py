"""Point robot: move to a hidden goal on a half circle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.meta.point import Flight, PointTasks, polar
from rlmem.envs.meta.splits import Ranges, Splits
from rlmem.envs.meta.task_env import meta


class Target(NamedTuple):
    """The hidden goal."""

    angle: Float[Tensor, "N"]
    goal: Float[Tensor, "N 2"]


@meta("meta-point-robot", episodes=5)
class PointRobot(PointTasks):
    """Goals at distance 1 on a half circle, as in Rakelly et al. 2019, "Efficient off-policy
    meta-reinforcement learning via probabilistic context variables", arXiv 1903.08254; see
    `PointTasks`. Angles are in half turns from the x axis; held out are intervals of them.
    """

    def __init__(
        self,
        length: int = 20,
        speed: float = 0.1,
        sparse: bool = False,
        goal_radius: float = 0.2,
        angle: Sequence[Sequence[float]] = ((0.0, 0.2), (0.3, 0.7), (0.8, 1.0)),
        heldout_angle: Sequence[Sequence[float]] = ((0.2, 0.3), (0.7, 0.8)),
        **options: Any,
    ) -> None:
        splits = Splits({"angle": Ranges.of(angle)}, {"angle": Ranges.of(heldout_angle)})
        super().__init__(splits, length, speed, sparse, goal_radius, **options)

    def draw_task(self, draws: RandomDraws) -> Target:
        """Goals of the split."""
        angle = self.drawn("angle", draws)
        return Target(angle, polar(1.0, angle))

    def goal(self, task: Target) -> Float[Tensor, "N 2"]:
        """The goal of the task."""
        return task.goal

    def drift(self, task: Target) -> float:
        """No drift."""
        return 0.0

    def reveal(self, task: Target, state: Flight, row: int) -> str:
        """The goal."""
        return "goal ({:.2f}, {:.2f})".format(*task.goal[row].tolist())
