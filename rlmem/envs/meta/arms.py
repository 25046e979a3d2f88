"""Bandits: what those have in common that differ in how their arms pay."""

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
from rlmem.envs.meta.splits import Domain, Splits, Values
from rlmem.envs.meta.task_env import TaskEnv
from rlmem.envs.streams import Draws
from rlmem.errors import positive


class Arms(NamedTuple):
    """What a bandit hides: `value` is what each arm pays on average, the task's arms first."""

    arms: Int[Tensor, "N"]
    prior: Tensor  # [N, 2], integers or floats: the distribution of values
    value: Float[Tensor, "N A"]


class ArmsEnv(TaskEnv[Any, tuple[()]]):
    """An episode is one pull, so that a trial of 100 episodes is what RL^2 calls a bandit of 100
    pulls (Duan et al. 2016, arXiv 1611.02779).

    The numbers of arms and the priors of training are `arms` and `prior`, each as likely as the
    others. Held out are other arms of the same kind (split `heldout`), other priors
    (`heldout-prior`) and other numbers of arms (`heldout-arms`). There are as many actions as any
    split has arms; the observation shows which of them are arms (1). The others pay `worst`, on
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
    def values(self, prior: Tensor, draws: Draws) -> Float[Tensor, "M A"]:
        """What each arm of the tasks pays on average, from their priors [M, 2]."""

    @abstractmethod
    def pay(self, value: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
        """What arms of these values pay this time."""

    def draw_task(self, draws: Draws) -> Any:
        """Arms, each with its value."""
        arms, prior = self.drawn("arms", draws), self.drawn("prior", draws)
        return Arms(arms, prior, self._of_arms(arms, self.values(prior, draws)))

    def begin(self, task: Any, draws: Draws) -> tuple[()]:
        """A pull depends on nothing but the arm."""
        return ()

    def play(
        self, task: Any, state: tuple[()], action: Tensors
    ) -> tuple[tuple[()], Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """Pull an arm."""
        value = task.value.gather(1, action["action"].long()[:, None])[:, 0]
        return (), self.pay(value), self._flags(True), self._flags(False)

    def see(self, task: Any, state: tuple[()]) -> Tensors:
        """Which actions are arms."""
        return {"obs": legal(task.arms, self.arms).float()}

    def best_action(self, plan: Any, task: Any, state: tuple[()]) -> Tensors:
        """The arm that pays most on average."""
        return {"action": task.value.argmax(1)}

    def _of_arms(self, arms: Int[Tensor, "M"], value: Float[Tensor, "M A"]) -> Tensor:
        return torch.where(legal(arms, self.arms), value, self.worst)

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """How many arms there are."""
        return f"{int(obs['obs'][row].sum())} arms"

    def describe_action(self, action: Tensors, row: int) -> str:
        """The arm."""
        return f"arm {int(action['action'][row])}"

    def reveal(self, row: int) -> str:
        """What the arms pay on average."""
        value = self.task.value[row, : int(self.task.arms[row])]
        return " ".join(f"{number:.2f}" for number in value.tolist())


def legal(arms: Int[Tensor, "M"], most: int) -> Bool[Tensor, "M most"]:
    """Which of `most` actions are arms."""
    return torch.arange(most, device=arms.device) < arms[:, None]


def _counts(arms: Sequence[int]) -> Values:
    return Values.of([positive("arms", number) for number in arms])
