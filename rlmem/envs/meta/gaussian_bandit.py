"""Gaussian bandits: find the arm that pays most on average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rlmem.envs import counter_rng
from rlmem.envs.counter_rng import RandomDraws, RandomSteps
from rlmem.envs.meta.arms import BanditTasks
from rlmem.envs.meta.splits import Instances, Values, pairs
from rlmem.envs.meta.task_env import meta
from rlmem.errors import UsageError


@meta("meta-gaussian-bandit", episodes=100)
class GaussianBandit(BanditTasks):
    """Each arm pays its own mean plus Gaussian noise of deviation `noise`; see `BanditTasks`.

    Means are normally distributed: a prior is (mean, deviation). Actions that are no arms pay three
    deviations less than the mean of the worst prior.
    """

    def __init__(
        self,
        arms: Sequence[int] = (10,),
        prior: Sequence[Sequence[float]] = ((0.0, 1.0),),
        noise: float = 1.0,
        heldout_arms: Sequence[int] = (3, 5),
        heldout_prior: Sequence[Sequence[float]] = ((0.0, 0.5), (1.0, 1.0)),
        **options: Any,
    ) -> None:
        if noise < 0:
            raise UsageError(f"noise must be at least 0, not {noise}")
        self.noise = noise
        priors, others = _priors(prior), _priors(heldout_prior)
        self.worst = min(mean - 3 * deviation for mean, deviation in priors.values + others.values)
        super().__init__(
            arms,
            priors,
            heldout_arms,
            others,
            Instances("normal", (noise,)),
            **options,
        )

    def values(self, prior: Float[Tensor, "M 2"], draws: RandomDraws) -> Float[Tensor, "M A"]:
        """The mean of each arm."""
        normal = counter_rng.normals(draws.bits(-(-self.arms // 2))).flatten(0, 1)[: self.arms]
        return torch.addcmul(prior[:, :1], prior[:, 1:], normal.T)

    def pay(self, value: Float[Tensor, "N"], random_steps: RandomSteps) -> Float[Tensor, "N"]:
        """The mean plus noise; the noise does not depend on the arm."""
        return torch.add(value, random_steps.normals()[0], alpha=self.noise)


def _priors(values: Sequence[Sequence[float]]) -> Values:
    found = pairs("priors of means are pairs [mean, deviation]", values)
    if any(deviation <= 0 for _, deviation in found):
        raise UsageError(f"deviations of priors must be above 0, not as in {list(values)}")
    return Values(tuple((float(mean), float(deviation)) for mean, deviation in found))
