"""Continuous actions: Gaussians over the Box leaves of an action space, squashed into its bounds.

| bounds of an entry      | action for a Gaussian x                                     |
|-------------------------|-------------------------------------------------------------|
| low and high            | low + (high - low) (tanh(x) + 1) / 2                        |
| none                    | x                                                           |
| low only                | low + softplus(x)                                           |
| high only               | high - softplus(-x)                                         |
| low = high              | the constant low: no density, entropy 0                     |

Log-probabilities are those of the action, so they include the slope of its transform.
"""

from __future__ import annotations

import math

import gymnasium as gym
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.errors import UsageError
from rlmem.policies.images import UNBOUNDED
from rlmem.policies.reshaped import Reshaped

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
# Smallest distance of a squashed action from the bounds: float32 cannot invert tanh much closer.
TANH_EDGE = 1e-6
# The same for actions with one bound, in units of that bound if it is above 1.
SOFT_EDGE = 1e-6
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

    def tensors(self) -> dict[str, Tensor]:
        """`mean` and `log_std`."""
        return {"mean": self.mean, "log_std": self.log_std}


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

    def tensors(self) -> dict[str, Tensor]:
        """`mean` and `log_std` of the Gaussian before its transform."""
        return self.normal.tensors()

    def _squash(self, raw: Tensor) -> Tensor:
        unit = torch.tanh(raw).clamp(-1 + TANH_EDGE, 1 - TANH_EDGE)
        return self.low + (unit + 1) * self.half

    def _log_prob_raw(self, raw: Tensor) -> Tensor:
        return self.normal.log_prob(raw) - self._log_slope(raw)

    def _log_slope(self, raw: Tensor) -> Tensor:
        return _log_tanh_slope(raw, self.half).sum(dim=-1)


class MixedNormal:
    """Gaussians through the transform of each entry's bounds; see the table of this module.

    A missing bound is infinite. The entropy is estimated from one reparametrised sample.
    """

    def __init__(
        self,
        mean: Float[Tensor, "*N k"],
        log_std: Float[Tensor, "*N k"],
        low: Float[Tensor, "k"],
        high: Float[Tensor, "k"],
    ) -> None:
        self.normal = Normal(mean, log_std)
        has_low, has_high = low.isfinite(), high.isfinite()
        self.constant = low == high
        self.both = has_low & has_high & ~self.constant
        self.only_low, self.only_high = has_low & ~has_high, has_high & ~has_low
        # `where` also computes the branches that it does not choose: they must be finite.
        self.low, self.high = torch.where(has_low, low, 0), torch.where(has_high, high, 0)
        self.half = torch.where(self.both, (self.high - self.low) / 2, 1)

    def sample(self) -> Float[Tensor, "*N k"]:
        return self._squash(self.normal.sample())

    def mode(self) -> Float[Tensor, "*N k"]:
        return self._squash(self.normal.mean)

    def draw(self) -> tuple[Float[Tensor, "*N k"], Float[Tensor, "*N"]]:
        """A reparametrised sample and its log-probability, both differentiable."""
        noise = torch.randn_like(self.normal.mean)
        raw = self.normal.mean + self.normal.log_std.exp() * noise
        return self._squash(raw), self._total(noise, raw)

    def log_prob(self, action: Float[Tensor, "*N k"]) -> Float[Tensor, "*N"]:
        unit = (action - self.low) / self.half - 1
        raw = torch.where(self.both, torch.atanh(unit.clamp(-1 + TANH_EDGE, 1 - TANH_EDGE)), action)
        above, below = action - self.low, self.high - action
        raw = torch.where(self.only_low, _inverse_softplus(above, self.low), raw)
        raw = torch.where(self.only_high, -_inverse_softplus(below, self.high), raw)
        raw = torch.where(self.constant, 0, raw)
        return self._log_prob_raw(raw)

    def entropy(self) -> Float[Tensor, "*N"]:
        return -self._log_prob_raw(self.normal.sample())

    def tensors(self) -> dict[str, Tensor]:
        """`mean` and `log_std` of the Gaussian before its transform."""
        return self.normal.tensors()

    def _squash(self, raw: Tensor) -> Tensor:
        unit = torch.tanh(raw).clamp(-1 + TANH_EDGE, 1 - TANH_EDGE)
        above, below = self.low + _softplus(raw, self.low), self.high - _softplus(-raw, self.high)
        action = torch.where(self.both, self.low + (unit + 1) * self.half, raw)
        action = torch.where(self.only_low, above, torch.where(self.only_high, below, action))
        return torch.where(self.constant, self.low, action)

    def _log_prob_raw(self, raw: Tensor) -> Tensor:
        return self._total((raw - self.normal.mean) * (-self.normal.log_std).exp(), raw)

    def _total(self, z: Tensor, raw: Tensor) -> Tensor:
        """The log-probability of the action for `raw`, which is z standard deviations off."""
        slope = torch.where(self.both, _log_tanh_slope(raw, self.half), 0)
        slope = torch.where(self.only_low, F.logsigmoid(raw), slope)
        slope = torch.where(self.only_high, F.logsigmoid(-raw), slope)
        each = -(0.5 * z.square() + self.normal.log_std + LOG_SQRT_2PI) - slope
        return torch.where(self.constant, 0, each).sum(dim=-1)


def _softplus(raw: Tensor, bound: Tensor) -> Tensor:
    """softplus, but at least so large that `bound` plus or minus it differs from `bound`."""
    return torch.maximum(F.softplus(raw), SOFT_EDGE * bound.abs().clamp(min=1))


def _inverse_softplus(y: Tensor, bound: Tensor) -> Tensor:
    y = torch.maximum(y, SOFT_EDGE * bound.abs().clamp(min=1))
    return y + torch.log(-torch.expm1(-y))


def _log_tanh_slope(raw: Tensor, half: Tensor) -> Tensor:
    """log(half (1 - tanh(x)^2)); `2 (log 2 - x - softplus(-2 x))` is exact also for large x."""
    return 2 * (math.log(2) - raw - F.softplus(-2 * raw)) + half.log()


ContinuousDistribution = Normal | TanhNormal | MixedNormal | Reshaped


class BoxLeaf(nn.Module):
    """Box leaves: a Gaussian with a learned standard deviation, a function of x if `state_std`.

    Actions have the shape of the space, and its bounds; a bound beyond `UNBOUNDED` is none. `unit`
    [k] is half the range of each entry with two bounds, and 1 for others. Raises `UsageError` for a
    Box of integers.
    """

    low: Tensor
    high: Tensor
    unit: Tensor

    def __init__(self, space: gym.spaces.Box, state_std: bool = False) -> None:
        super().__init__()
        low, high = box_bounds(space)
        self.shape = tuple(space.shape)
        self.size = len(low)
        bounded = low.isfinite() & high.isfinite()
        free = ~(low.isfinite() | high.isfinite())
        self.bounded = bool((bounded & (low != high)).all())
        self.unbounded = bool(free.all())
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        self.register_buffer("unit", box_units(low, high)[1], persistent=False)
        self.log_std = None if state_std else nn.Parameter(torch.full((self.size,), -0.5))
        if state_std:
            self.size *= 2

    def forward(self, x: Float[Tensor, "*N size"]) -> ContinuousDistribution:
        if self.log_std is None:
            mean, log_std = x.chunk(2, dim=-1)
            log_std = log_std.clamp(*LOG_STD_RANGE)
        else:
            mean, log_std = x, self.log_std.expand_as(x)
        vector: ContinuousDistribution
        if self.bounded:
            vector = TanhNormal(mean, log_std, self.low, self.high)
        elif self.unbounded:
            vector = Normal(mean, log_std)
        else:
            vector = MixedNormal(mean, log_std, self.low, self.high)
        return vector if len(self.shape) == 1 else Reshaped(vector, self.shape)


def box_bounds(space: gym.spaces.Box) -> tuple[Float[Tensor, "k"], Float[Tensor, "k"]]:
    """The bounds of all entries (flattened), infinite beyond `UNBOUNDED`.

    Raises `UsageError` for a Box of integers: a policy's outputs would have to be rounded.
    """
    if space.dtype is None or space.dtype.kind != "f":
        raise UsageError(
            f"action space {space} is not supported: a Box of actions must have a float dtype"
        )
    low, high = torch.tensor(space.low).flatten(), torch.tensor(space.high).flatten()
    low = torch.where(low <= -UNBOUNDED, -torch.inf, low)
    return low, torch.where(high >= UNBOUNDED, torch.inf, high)


def box_units(low: Float[Tensor, "k"], high: Float[Tensor, "k"]) -> tuple[Tensor, Tensor]:
    """Zero and unit of each entry's scale: middle and half of the range, if it has two bounds.

    Otherwise the unit is 1, and zero is the only bound, or 0 without one.
    """
    both = low.isfinite() & high.isfinite()
    center = torch.where(low.isfinite(), low, torch.where(high.isfinite(), high, 0))
    center = torch.where(both, (low + high) / 2, center)
    return center, torch.where(both & (low != high), (high - low) / 2, 1)
