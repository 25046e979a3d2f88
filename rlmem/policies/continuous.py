"""Continuous actions: Gaussians and squashed Gaussians over the Box leaves of an action space."""

from __future__ import annotations

import math

import gymnasium as gym
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.errors import UsageError

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
# Smallest distance of a squashed action from the bounds: float32 cannot invert tanh much closer.
TANH_EDGE = 1e-6
# Range of a state-dependent log standard deviation (Haarnoja et al. 2018, their code).
LOG_STD_RANGE = (-20.0, 2.0)


class Normal:
    """Independent Gaussians, `mean` and `log_std` [*N, k]; actions [*N, k]."""

    def __init__(self, mean: Float[Tensor, "*N k"], log_std: Float[Tensor, "*N k"]) -> None:
        self.mean = mean
        self.log_std = log_std

    def sample(self) -> Float[Tensor, "*N k"]:
        return self.mean + self.log_std.exp() * torch.randn_like(self.mean)

    def mode(self) -> Float[Tensor, "*N k"]:
        return self.mean

    def draw(self) -> tuple[Float[Tensor, "*N k"], Float[Tensor, "*N"]]:
        """A reparametrised sample and its log-probability, both differentiable."""
        noise = torch.randn_like(self.mean)
        log_prob = -(0.5 * noise.square() + self.log_std + LOG_SQRT_2PI).sum(dim=-1)
        return self.mean + self.log_std.exp() * noise, log_prob

    def log_prob(self, action: Float[Tensor, "*N k"]) -> Float[Tensor, "*N"]:
        z = (action - self.mean) * (-self.log_std).exp()
        return -(0.5 * z.square() + self.log_std + LOG_SQRT_2PI).sum(dim=-1)

    def entropy(self) -> Float[Tensor, "*N"]:
        return (self.log_std + 0.5 + LOG_SQRT_2PI).sum(dim=-1)


class TanhNormal:
    """Gaussians squashed into [low, high] by tanh (Haarnoja et al. 2018, appendix C).

    The entropy has no closed form; it is estimated from one reparametrised sample.
    """

    def __init__(
        self,
        mean: Float[Tensor, "*N k"],
        log_std: Float[Tensor, "*N k"],
        low: Float[Tensor, "k"],
        high: Float[Tensor, "k"],
    ) -> None:
        self.normal = Normal(mean, log_std)
        self.low = low
        self.half = (high - low) / 2

    def sample(self) -> Float[Tensor, "*N k"]:
        return self._squash(self.normal.sample())

    def mode(self) -> Float[Tensor, "*N k"]:
        return self._squash(self.normal.mean)

    def draw(self) -> tuple[Float[Tensor, "*N k"], Float[Tensor, "*N"]]:
        """A reparametrised sample and its log-probability, both differentiable."""
        raw, log_prob = self.normal.draw()
        return self._squash(raw), log_prob - self._log_slope(raw)

    def log_prob(self, action: Float[Tensor, "*N k"]) -> Float[Tensor, "*N"]:
        unit = (action - self.low) / self.half - 1
        raw = torch.atanh(unit.clamp(-1 + TANH_EDGE, 1 - TANH_EDGE))
        return self._log_prob_raw(raw)

    def entropy(self) -> Float[Tensor, "*N"]:
        return -self._log_prob_raw(self.normal.sample())

    def _squash(self, raw: Tensor) -> Tensor:
        unit = torch.tanh(raw).clamp(-1 + TANH_EDGE, 1 - TANH_EDGE)
        return self.low + (unit + 1) * self.half

    def _log_prob_raw(self, raw: Tensor) -> Tensor:
        return self.normal.log_prob(raw) - self._log_slope(raw)

    def _log_slope(self, raw: Tensor) -> Tensor:
        # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x)), also exact where tanh saturates.
        squash = 2 * (math.log(2) - raw - F.softplus(-2 * raw)) + self.half.log()
        return squash.sum(dim=-1)


class BoxLeaf(nn.Module):
    """Box leaves: a Gaussian with a learned standard deviation, a function of x if `state_std`.

    Actions are squashed into the bounds if every entry is bounded on both sides. Raises
    `UsageError` for a space that is not a vector or has entries with one bound only.
    """

    low: Tensor
    high: Tensor

    def __init__(self, space: gym.spaces.Box, state_std: bool = False) -> None:
        super().__init__()
        if len(space.shape) != 1:
            raise UsageError(f"action space {space} is not supported: Box actions must be vectors")
        self.size = space.shape[0]
        self.bounded = space.is_bounded("both")
        if not self.bounded and (space.bounded_below.any() or space.bounded_above.any()):
            raise UsageError(
                f"action space {space} is not supported: every entry must have two bounds, or none"
            )
        self.register_buffer("low", torch.as_tensor(space.low), persistent=False)
        self.register_buffer("high", torch.as_tensor(space.high), persistent=False)
        self.log_std = None if state_std else nn.Parameter(torch.full((self.size,), -0.5))
        if state_std:
            self.size *= 2

    def forward(self, x: Float[Tensor, "*N size"]) -> Normal | TanhNormal:
        if self.log_std is None:
            mean, log_std = x.chunk(2, dim=-1)
            log_std = log_std.clamp(*LOG_STD_RANGE)
        else:
            mean, log_std = x, self.log_std.expand_as(x)
        if self.bounded:
            return TanhNormal(mean, log_std, self.low, self.high)
        return Normal(mean, log_std)
