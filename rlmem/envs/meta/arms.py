"""Base class of bandits, which differ in the payout of their arms."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.counter_rng import RandomDraws, RandomSteps
from rlmem.envs.meta.splits import Domain, Splits, Values
from rlmem.envs.meta.task_distribution import SolvableTasks, never
from rlmem.errors import positive


class Arms(NamedTuple):
    """A hidden bandit: `value` is the mean payout of each action; the task's arms come first."""

    arms: Int[Tensor, "N"]
    prior: Tensor  # [N, 2], integers or floats: the distribution of values
    value: Float[Tensor, "N A"]


class BanditTasks(SolvableTasks[Any, tuple[()]]):
    """Bandits. An episode is one pull, so a trial of 100 episodes is a bandit of 100 pulls in the
    sense of RL^2 (Duan et al. 2016, arXiv 1611.02779).

    `arms` and `prior` are the numbers of arms and the priors of training, drawn uniformly. Held out
    are other arms of the same distribution (split `heldout`), other priors (`heldout-prior`) and
    other numbers of arms (`heldout-arms`). The number of actions is the largest number of arms in
    any split. The observation marks the actions that are arms (1). The others pay `worst` on
    average.
    """

    worst: float

    def __init__(
        self,
        arms: Sequence[int],
        prior: Values,
        heldout_arms: Sequence[int],
        heldout_prior: Values,
        value: Domain,
        more: dict[str, Domain] | None = None,
        heldout: dict[str, dict[str, Domain]] | None = None,
        **options: Any,
    ) -> None:
        counts, heldout_counts = _counts(arms), _counts(heldout_arms)
        splits = Splits(
            {"arms": counts, "prior": prior, "value": value, **(more or {})},
            heldout_arms={"arms": heldout_counts},
            heldout_prior={"prior": heldout_prior},
            **(heldout or {}),
        )
        self.arms = max(*counts.values, *heldout_counts.values)
        super().__init__(
            splits, Box(0.0, 1.0, (self.arms,), np.float32), Discrete(self.arms), **options
        )

    @abstractmethod
    def values(self, prior: Tensor, draws: RandomDraws) -> Float[Tensor, "M A"]:
        """The mean payout of each arm, drawn from the priors [M, 2] of the tasks."""

    @abstractmethod
    def pay(self, value: Float[Tensor, "N"], random_steps: RandomSteps) -> Float[Tensor, "N"]:
        """The random payouts of arms with these means."""

    def draw_task(self, draws: RandomDraws) -> Any:
        """Arms and their mean payouts."""
        arms, prior = self.drawn("arms", draws), self.drawn("prior", draws)
        return Arms(arms, prior, self._of_arms(arms, self.values(prior, draws)))

    def initial_state(self, task: Any, draws: RandomDraws) -> tuple[()]:
        """Episodes have no state: a payout depends on the arm only."""
        return ()

    def transition(
        self, task: Any, state: tuple[()], action: Tensors, random_steps: RandomSteps
    ) -> tuple[tuple[()], Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """Pull an arm."""
        value = task.value.gather(1, action["action"].long()[:, None])[:, 0]
        pulled = torch.ones_like(value, dtype=torch.bool)
        return (), self.pay(value, random_steps), pulled, never(value)

    def observe(self, task: Any, state: tuple[()]) -> Tensors:
        """The actions that are arms."""
        return {"obs": legal(task.arms, self.arms).float()}

    def best_action(self, plan: Any, task: Any, state: tuple[()]) -> Tensors:
        """The arm of the highest mean."""
        return {"action": task.value.argmax(1)}

    def _of_arms(self, arms: Int[Tensor, "M"], value: Float[Tensor, "M A"]) -> Tensor:
        return torch.where(legal(arms, self.arms), value, self.worst)

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The number of arms."""
        return f"{int(obs['obs'][row].sum())} arms"

    def describe_action(self, action: Tensors, row: int) -> str:
        """The arm."""
        return f"arm {int(action['action'][row])}"

    def reveal(self, task: Any, state: tuple[()], row: int) -> str:
        """The mean payout of each arm."""
        value = task.value[row, : int(task.arms[row])]
        return " ".join(f"{number:.2f}" for number in value.tolist())


def legal(arms: Int[Tensor, "M"], most: int) -> Bool[Tensor, "M most"]:
    """Marks the arms among `most` actions."""
    return torch.arange(most, device=arms.device) < arms[:, None]


def _counts(arms: Sequence[int]) -> Values:
    return Values.of([positive("arms", number) for number in arms])
