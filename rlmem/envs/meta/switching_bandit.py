"""Bandits that change: at unknown times all arms get new chances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.meta.bandit import BernoulliArms
from rlmem.envs.meta.change_points import hazard_ranges
from rlmem.envs.meta.task_env import meta


class SwitchingArms(NamedTuple):
    """A hidden switching bandit; `value` are the present chances."""

    arms: Int[Tensor, "N"]
    prior: Int[Tensor, "N 2"]
    hazard: Float[Tensor, "N"]
    value: Float[Tensor, "N A"]


@meta("meta-switching-bandit", episodes=200)
class SwitchingBandit(BernoulliArms):
    """A piecewise stationary Bernoulli bandit: after each pull, with probability `hazard`, all
    chances are drawn anew. Each task has its own hazard; hazard and switches are hidden.

    Switches and new chances are functions of the task and the number of the pull, independent of
    the actions. The split `heldout-hazard` has other hazards; for the other splits see
    `BanditTasks`.
    """

    changes = True

    def __init__(
        self,
        arms: Sequence[int] = (5,),
        prior: Sequence[Sequence[int]] = ((1, 1),),
        hazard: Sequence[Sequence[float]] = ((0.01, 0.04),),
        heldout_arms: Sequence[int] = (2, 3),
        heldout_prior: Sequence[Sequence[int]] = ((1, 3), (3, 1)),
        heldout_hazard: Sequence[Sequence[float]] = ((0.0, 0.01), (0.04, 0.08)),
        **options: Any,
    ) -> None:
        super().__init__(
            prior,
            heldout_prior,
            arms=arms,
            heldout_arms=heldout_arms,
            more={"hazard": hazard_ranges(hazard)},
            heldout={"heldout_hazard": {"hazard": hazard_ranges(heldout_hazard)}},
            **options,
        )

    def draw_task(self, draws: RandomDraws) -> SwitchingArms:
        """The first chances, and the hazard."""
        hazard = self.drawn("hazard", draws)
        first = super().draw_task(draws)
        return SwitchingArms(first.arms, first.prior, hazard, first.value)

    def next_task(self, task: SwitchingArms, draws: RandomDraws) -> SwitchingArms:
        """New chances for some tasks."""
        switches = draws.uniform(1)[0] < task.hazard
        fresh = self._of_arms(task.arms, self.values(task.prior, draws))
        return task._replace(value=torch.where(switches[:, None], fresh, task.value))

    def reveal(self, task: SwitchingArms, state: tuple[()], row: int) -> str:
        """The present chances, and the hazard."""
        return f"{super().reveal(task, state, row)}, changes with {float(task.hazard[row]):.3f}"
