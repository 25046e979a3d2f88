"""Point robot: fly to a goal that is somewhere on a half circle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from rlmem.envs.meta.point import PointEnv, polar
from rlmem.envs.meta.splits import Ranges, Splits
from rlmem.envs.meta.task_env import meta
from rlmem.envs.streams import Draws


class Target(NamedTuple):
    """Where the goal is."""

    angle: Float[Tensor, "N"]
    goal: Float[Tensor, "N 2"]


@meta("meta-point-robot", episodes=5)
class PointRobot(PointEnv):
    """Goals at distance 1 on a half circle, as in Rakelly et al. 2019, "Efficient off-policy
    meta-reinforcement learning via probabilistic context variables", arXiv 1903.08254; see
    `PointEnv`. Angles are in half turns from the x axis; held out are sectors of them.
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

    def draw_task(self, draws: Draws) -> Target:
        """Goals of the split."""
        angle = self.drawn("angle", draws)
        return Target(angle, polar(1.0, angle))

    def goal(self, task: Target) -> Float[Tensor, "N 2"]:
        """The task's."""
        return task.goal

    def drift(self, task: Target) -> float:
        """None."""
        return 0.0

    def reveal(self, row: int) -> str:
        """Where the goal is."""
        return "goal ({:.2f}, {:.2f})".format(*self.task.goal[row].tolist())
