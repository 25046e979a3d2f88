"""Bernoulli bandits: find the arm that pays most often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.meta.splits import Instances, Splits, Values
from rlmem.envs.meta.task_env import TaskEnv, meta
from rlmem.envs.streams import Draws, uniform
from rlmem.errors import UsageError, positive


class Arms(NamedTuple):
    """What a bandit hides; of `chance` the arms that the task has come first, the rest is 0."""

    arms: Int[Tensor, "N"]
    prior: Int[Tensor, "N 2"]
    chance: Float[Tensor, "N A"]


@meta("meta-bandit", episodes=100)
class Bandit(TaskEnv[Arms, tuple[()]]):
    """Each arm pays 1 with a chance of its own, drawn from a Beta distribution; an episode is one
    pull, so that a trial of 100 is what RL^2 calls a bandit of 100 pulls (Duan et al. 2016).

    The numbers of arms and the priors (a, b) of training are `arms` and `prior`, each as likely
    as the others. Held out are other arms of the same kind (split `heldout`), other priors
    (`heldout-prior`) and other numbers of arms (`heldout-arms`). There are as many actions as any
    split has arms; the observation shows which of them are arms (1), and the others never pay.
    """

    def __init__(
        self,
        arms: Sequence[int] = (10,),
        prior: Sequence[Sequence[int]] = ((1, 1),),
        heldout_arms: Sequence[int] = (3, 5),
        heldout_prior: Sequence[Sequence[int]] = ((1, 3), (3, 1)),
        **options: Any,
    ) -> None:
        splits = Splits(
            {"arms": arm_counts(arms), "prior": priors(prior), "chance": Instances("beta")},
            heldout_arms={"arms": arm_counts(heldout_arms)},
            heldout_prior={"prior": priors(heldout_prior)},
        )
        self.arms = max([*arms, *heldout_arms])
        super().__init__(
            splits, Box(0.0, 1.0, (self.arms,), np.float32), Discrete(self.arms), **options
        )

    def draw_task(self, draws: Draws) -> Arms:
        """Arms, each with its chance."""
        arms, prior = self.drawn("arms", draws), self.drawn("prior", draws)
        chance = self.chances(prior, draws)
        return Arms(arms, prior, torch.where(legal(arms, self.arms), chance, 0))

    def chances(self, prior: Int[Tensor, "M 2"], draws: Draws) -> Float[Tensor, "M A"]:
        """A chance for each arm, from the prior of its task."""
        domain = self.domains["prior"]
        assert isinstance(domain, Values)
        chance = torch.zeros(self.arms, draws.size, device=draws.device)
        for a, b in domain.values:
            chosen = (prior[:, 0] == a) & (prior[:, 1] == b)
            chance = torch.where(chosen, beta(a, b, self.arms, draws), chance)
        return chance.T.contiguous()

    def begin(self, task: Arms, draws: Draws) -> tuple[()]:
        """A pull depends on nothing but the arm."""
        return ()

    def play(
        self, task: Arms, state: tuple[()], action: Tensors
    ) -> tuple[tuple[()], Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """Pull an arm."""
        pulled = task.chance.gather(1, action["action"].long()[:, None])[:, 0]
        paid = uniform(self.steps.bits()[0]) < pulled
        return (), paid.float(), self._flags(True), self._flags(False)

    def see(self, task: Arms, state: tuple[()]) -> Tensors:
        """Which actions are arms."""
        return {"obs": legal(task.arms, self.arms).float()}

    def best_action(self, plan: Any, task: Arms, state: tuple[()]) -> Tensors:
        """The arm that pays most often."""
        return {"action": task.chance.argmax(1)}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """How many arms there are."""
        return f"{int(obs['obs'][row].sum())} arms"

    def describe_action(self, action: Tensors, row: int) -> str:
        """The arm."""
        return f"arm {int(action['action'][row])}"

    def reveal(self, row: int) -> str:
        """The chances of all arms, in percent."""
        task = self.task
        chance = task.chance[row, : int(task.arms[row])]
        return " ".join(f"{100 * number:.0f}" for number in chance.tolist())


def legal(arms: Int[Tensor, "M"], most: int) -> Bool[Tensor, "M most"]:
    """Which of `most` actions are arms."""
    return torch.arange(most, device=arms.device) < arms[:, None]


def beta(a: int, b: int, count: int, draws: Draws) -> Float[Tensor, "count M"]:
    """Numbers of the distribution Beta(a, b): each the a-th least of a + b - 1 uniform ones."""
    numbers = draws.uniform((a + b - 1) * count).unflatten(0, (a + b - 1, count))
    return numbers[0] if a == b == 1 else numbers.kthvalue(a, 0).values


def arm_counts(arms: Sequence[int]) -> Values:
    """The numbers of arms of a split."""
    return Values.of([positive("arms", number) for number in arms])


def priors(pairs: Sequence[Sequence[int]]) -> Values:
    """The priors of a split; a `UsageError` if one is not a pair of integers of at least 1."""
    for pair in pairs:
        if len(pair) != 2:
            raise UsageError(f"a prior of chances is a pair of integers [a, b], not {list(pair)}")
        for number in pair:
            positive("prior", number)
    return Values.of(pairs)
