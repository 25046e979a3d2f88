"""Wind: move to a known goal through an unknown wind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.meta.point import Flight, PointTasks, polar
from rlmem.envs.meta.splits import Ranges, Splits
from rlmem.envs.meta.task_env import meta


class Air(NamedTuple):
    """The hidden wind."""

    direction: Float[Tensor, "N"]
    strength: Float[Tensor, "N"]
    wind: Float[Tensor, "N 2"]


@meta("meta-wind", episodes=5)
class Wind(PointTasks):
    """A goal at (0, 1), and a wind that moves the point in each step, as in Dorfman et al. 2021,
    "Offline meta learning of exploration", arXiv 2008.02598; see `PointTasks`.

    Directions are in half turns from the x axis. Held out are intervals of directions (split
    `heldout`), and of strengths (`heldout-strength`).
    """

    def __init__(
        self,
        length: int = 25,
        speed: float = 0.1,
        sparse: bool = True,
        goal_radius: float = 0.2,
        direction: Sequence[Sequence[float]] = ((0.0, 0.7), (1.0, 1.7)),
        strength: Sequence[Sequence[float]] = ((0.0, 0.06),),
        heldout_direction: Sequence[Sequence[float]] = ((0.7, 1.0), (1.7, 2.0)),
        heldout_strength: Sequence[Sequence[float]] = ((0.06, 0.08),),
        **options: Any,
    ) -> None:
        splits = Splits(
            {"direction": Ranges.of(direction), "strength": Ranges.of(strength)},
            {"direction": Ranges.of(heldout_direction)},
            heldout_strength={"strength": Ranges.of(heldout_strength)},
        )
        super().__init__(splits, length, speed, sparse, goal_radius, **options)
        self._goal = torch.tensor([[0.0, 1.0]], device=self.device)

    def draw_task(self, draws: RandomDraws) -> Air:
        """Winds of the split."""
        direction, strength = self.drawn("direction", draws), self.drawn("strength", draws)
        return Air(direction, strength, polar(strength, direction))

    def goal(self, task: Air) -> Float[Tensor, "N 2"]:
        """(0, 1)."""
        return self._goal.expand_as(task.wind)

    def drift(self, task: Air) -> Float[Tensor, "N 2"]:
        """The wind."""
        return task.wind

    def reveal(self, task: Air, state: Flight, row: int) -> str:
        """The wind in multiples of `speed`."""
        return "wind ({:.2f}, {:.2f})".format(*(task.wind[row] / self.speed).tolist())
