"""Bandits that change: from time to time, untold, all arms get new chances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.meta.bandit import BernoulliArms
from rlmem.envs.meta.splits import Ranges
from rlmem.envs.meta.task_env import Trial, draws_of, meta
from rlmem.envs.streams import Draws
from rlmem.errors import UsageError


class SwitchingArms(NamedTuple):
    """What a switching bandit hides; `value` is what holds just now."""

    arms: Int[Tensor, "N"]
    prior: Int[Tensor, "N 2"]
    hazard: Float[Tensor, "N"]
    value: Float[Tensor, "N A"]


@meta("meta-switching-bandit", episodes=200)
class SwitchingBandit(BernoulliArms):
    """A Bernoulli bandit that is stationary by pieces: after each pull all chances are drawn anew
    with probability `hazard`, which is the task's own and not known, as are the moments.

    Both are functions of the task and the number of the pull, whatever is pulled. The split
    `heldout-hazard` has other hazards; for the others see `ArmsEnv`.
    """

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
            more={"hazard": _hazards(hazard)},
            heldout={"heldout_hazard": {"hazard": _hazards(heldout_hazard)}},
            **options,
        )

    def draw_task(self, draws: Draws) -> SwitchingArms:
        """The first arms, and how often they change."""
        hazard = self.drawn("hazard", draws)
        first = super().draw_task(draws)
        return SwitchingArms(first.arms, first.prior, hazard, first.value)

    def advance(
        self, state: Trial, action: Tensors
    ) -> tuple[Trial, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """Pull an arm; then the arms may change."""
        trial, reward, terminated, truncated = super().advance(state, action)
        task = trial.task
        draws = draws_of(state.id, state.episode)
        switches = draws.uniform(1)[0] < task.hazard
        fresh = self._of_arms(task.arms, self.values(task.prior, draws))
        value = torch.where(switches[:, None], fresh, task.value)
        trial = trial._replace(task=task._replace(value=value))
        return trial, reward, terminated, truncated

    def reveal(self, row: int) -> str:
        """The chances just now, and how often they change."""
        return f"{super().reveal(row)}, changes with {float(self.task.hazard[row]):.3f}"


def _hazards(ranges: Sequence[Sequence[float]]) -> Ranges:
    hazards = Ranges.of(ranges)
    if any(low < 0 or high > 1 for low, high in hazards.intervals):
        raise UsageError(f"a hazard is a probability, not one of {ranges}")
    return hazards
