"""Exact Bayes filter of tasks that change at unknown times, with an unknown hazard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem.envs.meta.splits import Ranges
from rlmem.errors import UsageError

# The points of each range of hazards. The posterior of the hazard is smooth: more points change it
# by less than rounding does.
NODES = 8


def hazard_ranges(ranges: Sequence[Sequence[float]]) -> Ranges:
    """Ranges of probabilities of a change; a `UsageError` for others."""
    hazards = Ranges.of(ranges)
    if any(low < 0 or high > 1 for low, high in hazards.intervals):
        raise UsageError(f"a hazard is a probability, not one of {ranges}")
    return hazards


class Hazards(NamedTuple):
    """Possible hazards (probabilities of a change after a step), and their prior weights."""

    value: Float[Tensor, "H"]
    weight: Float[Tensor, "H"]

    @classmethod
    def uniform(cls, ranges: Ranges, device: torch.device) -> Hazards:
        """The uniform prior over ranges, by Gauss and Legendre's quadrature."""
        place, weight = np.polynomial.legendre.leggauss(NODES)
        low, high = np.array(ranges.intervals).T[:, :, None]
        half = (high - low) / 2
        value, mass = (low + high) / 2 + half * place, half * weight
        value, mass = (torch.as_tensor(x.flatten(), device=device) for x in (value, mass))
        return cls(value, mass / mass.sum())


class ChangePoints(NamedTuple):
    """The joint posterior of the hazard and of the last change, after t steps.

    `weight[n, h, c]` is the probability of hazard h and of the last change just before step c
    (c = 0: no change yet); 0 for c > t. This is the recursion of Adams and MacKay 2007, "Bayesian
    online changepoint detection", arXiv 0710.3742, for several hazards at once. It is exact, since
    only the observations since the last change bear on the present task.
    """

    weight: Float[Tensor, "N H C"]
    t: Int[Tensor, "N"]

    @classmethod
    def start(cls, hazards: Hazards, batch_size: int, length: int) -> ChangePoints:
        """The prior at the start of trials of `length` steps."""
        weight = hazards.weight.new_zeros(batch_size, len(hazards.weight), length + 1)
        weight[:, :, 0] = hazards.weight
        t = torch.zeros(batch_size, dtype=torch.int64, device=weight.device)
        return cls(weight, t)

    def since(self) -> Bool[Tensor, "N C"]:
        """The change points that are at or before the present step."""
        points = torch.arange(self.weight.shape[2], device=self.t.device)
        return points <= self.t[:, None]

    def update(self, hazards: Hazards, likelihood: Float[Tensor, "N C"]) -> ChangePoints:
        """The posterior after a step, whose result has this likelihood for each change point.

        w'[h, c] = (1 - h) l[c] w[h, c],   w'[h, t + 1] = h sum over c of l[c] w[h, c]
        """
        joint = self.weight * likelihood[:, None]
        joint = joint / joint.sum((1, 2), keepdim=True)
        value = hazards.value[:, None]
        t = self.t + 1
        # Steps after the last of a trial are never asked for.
        place = t.clamp(max=joint.shape[2] - 1)[:, None, None].expand(-1, joint.shape[1], 1)
        weight = (joint * (1 - value)).scatter_add(2, place, joint.sum(2, keepdim=True) * value)
        return ChangePoints(weight, t)

    def points(self) -> Float[Tensor, "N C"]:
        """The posterior of the last change."""
        return self.weight.sum(1)
