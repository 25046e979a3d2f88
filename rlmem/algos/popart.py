"""Values in units of their targets' spread, whatever the rewards' scale."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlmem.algos.base import NonFiniteLoss
from rlmem.algos.nonfinite import Experience
from rlmem.errors import UsageError

# What a deviation may be: targets that differ by less than the first are as good as equal, and
# need not be told apart (Hessel et al. 2019: 1e-4 and 1e6).
RANGE = (1e-2, 1e6)


class PopArt(nn.Module):
    """Mean and deviation of `size` kinds of targets (van Hasselt et al. 2016, arXiv 1602.07714).

        mu     <- (1 - beta_t) mu + beta_t mean(y)
        nu     <- (1 - beta_t) nu + beta_t mean(y^2),    sigma = sqrt(nu - mu^2)
        beta_t  = beta / (1 - (1 - beta)^t): the first targets count in full

    A network says (Q - mu) / sigma. When the statistics change, its last layer has to change too,
    `w <- (sigma_old / sigma) w` and `b <- (sigma_old b + mu_old - mu) / sigma`, so that Q does not
    (proposition 1): `update` returns that scale and shift. It asks for no change at the first
    targets: what a network says by chance need not be preserved, and may be far from them. Means
    are float64, for `nu - mu^2` of large values that hardly differ.
    """

    mean: Tensor
    square: Tensor
    updates: Tensor

    def __init__(self, size: int, beta: float) -> None:
        super().__init__()
        if not 0 < beta <= 1:
            raise UsageError(f"popart_beta must be above 0 and at most 1, not {beta}")
        self.beta = beta
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("square", torch.ones(size, dtype=torch.float64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.float64))

    @property
    def deviation(self) -> Float[Tensor, "G"]:
        """Sigma; float64."""
        return (self.square - self.mean.square()).clamp(min=0).sqrt().clamp(*RANGE)

    @torch.no_grad()
    def update(
        self,
        target: Float[Tensor, "*N G"],
        mask: Bool[Tensor, "*N"],
        batch: Experience | None = None,
    ) -> tuple[Float[Tensor, "G"], Float[Tensor, "G"]]:
        """Include the targets where `mask`; returns the scale and the shift of the last layer.

        Raises `NonFiniteLoss`, which names the non-finite input of `batch`, before any change.
        """
        if not mask.any():
            return torch.ones_like(target[0]), torch.zeros_like(target[0])
        old_mean, old_deviation = self.mean.clone(), self.deviation
        seen = target[mask].double()
        mean, square = seen.mean(0), seen.square().mean(0)
        if not torch.isfinite(square).all():
            raise NonFiniteLoss("the mean square of the values' targets is not finite", batch)
        self.updates += 1
        rate = self.beta / (1 - (1 - self.beta) ** self.updates)
        self.mean.lerp_(mean, rate)
        self.square.lerp_(square, rate)
        scale = old_deviation / self.deviation
        shift = (old_mean - self.mean) / self.deviation
        first = self.updates == 1
        return torch.where(first, 1, scale).float(), torch.where(first, 0, shift).float()

    def normalise(self, value: Float[Tensor, "*N G"]) -> Float[Tensor, "*N G"]:
        """From the rewards' units to those of the networks."""
        return (value - self.mean.to(value.dtype)) / self.deviation.to(value.dtype)

    def denormalise(self, value: Float[Tensor, "*N G"]) -> Float[Tensor, "*N G"]:
        """From the networks' units to those of the rewards."""
        return value * self.deviation.to(value.dtype) + self.mean.to(value.dtype)
