"""Bernoulli bandits: find the arm that pays most often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlmem.envs.counter_rng import RandomDraws, RandomSteps, uniform
from rlmem.envs.meta.arms import BanditTasks
from rlmem.envs.meta.splits import Instances, Values, pairs
from rlmem.envs.meta.task_env import meta
from rlmem.errors import positive


class BernoulliArms(BanditTasks):
    """Each arm pays 1 with its own chance, drawn from Beta(a, b), else 0."""

    worst = 0.0

    def __init__(
        self, prior: Sequence[Sequence[int]], heldout_prior: Sequence[Sequence[int]], **options: Any
    ) -> None:
        super().__init__(
            prior=priors(prior),
            heldout_prior=priors(heldout_prior),
            value=Instances("beta"),
            **options,
        )

    def values(self, prior: Int[Tensor, "M 2"], draws: RandomDraws) -> Float[Tensor, "M A"]:
        """The chance of each arm."""
        domain = self.domains["prior"]
        assert isinstance(domain, Values)
        chance = torch.zeros(self.arms, draws.size, device=draws.device)
        for a, b in domain.values:
            chosen = (prior[:, 0] == a) & (prior[:, 1] == b)
            chance = torch.where(chosen, beta(a, b, self.arms, draws), chance)
        return chance.T.contiguous()

    def pay(self, value: Float[Tensor, "N"], random_steps: RandomSteps) -> Float[Tensor, "N"]:
        """1 with that chance, else 0; the random number does not depend on the arm."""
        return (uniform(random_steps.bits()[0]) < value).float()


@meta("meta-bandit", episodes=100)
class Bandit(BernoulliArms):
    """Bernoulli bandits as in RL^2; see `BanditTasks`. By default 10 arms with uniform chances."""

    def __init__(
        self,
        arms: Sequence[int] = (10,),
        prior: Sequence[Sequence[int]] = ((1, 1),),
        heldout_arms: Sequence[int] = (3, 5),
        heldout_prior: Sequence[Sequence[int]] = ((1, 3), (3, 1)),
        **options: Any,
    ) -> None:
        super().__init__(prior, heldout_prior, arms=arms, heldout_arms=heldout_arms, **options)


def beta(a: int, b: int, count: int, draws: RandomDraws) -> Float[Tensor, "count M"]:
    """Samples of Beta(a, b): the a-th smallest of a + b - 1 uniform numbers."""
    numbers = draws.uniform((a + b - 1) * count).unflatten(0, (a + b - 1, count))
    return numbers[0] if a == b == 1 else numbers.kthvalue(a, 0).values


def priors(values: Sequence[Sequence[int]]) -> Values:
    """The priors of a split; a `UsageError` if one is not a pair of integers of at least 1."""
    found = pairs("priors of chances are pairs of integers [a, b]", values)
    for prior in found:
        for number in prior:
            positive("prior", number)
    return Values(found)
