"""Distributions over actions: sample, mode, log-probability and entropy of a batch of them.

Plainer than `torch.distributions`, whose argument checks cost more than a policy's forward pass.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
# How near to the bounds an action may come: float32 cannot invert tanh much closer.
TANH_EDGE = 1e-6


@runtime_checkable
class Distribution(Protocol):
    """A batch [*N] of distributions over one leaf of the action space."""

    def sample(self) -> Tensor: ...
    def mode(self) -> Tensor: ...
    def log_prob(self, action: Tensor) -> Tensor: ...
    def entropy(self) -> Tensor: ...


class Categorical:
    """One choice among n, from `logits` [*N, n]; actions int64 [*N]."""

    def __init__(self, logits: Float[Tensor, "*N n"]) -> None:
        self.log_p = logits.log_softmax(dim=-1)

    def sample(self) -> Int[Tensor, "*N"]:
        # argmax(p / Exponential(1)) is distributed as p (the Gumbel-max trick).
        noise = torch.empty_like(self.log_p).exponential_()
        return (self.log_p - noise.log()).argmax(dim=-1)

    def mode(self) -> Int[Tensor, "*N"]:
        return self.log_p.argmax(dim=-1)

    def log_prob(self, action: Int[Tensor, "*N"]) -> Float[Tensor, "*N"]:
        return self.log_p.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Float[Tensor, "*N"]:
        return -(self.log_p.exp() * self.log_p).sum(dim=-1)


class MultiCategorical:
    """Independent choices among `sizes`, from `logits` [*N, sum(sizes)]; actions int64 [*N, k]."""

    def __init__(self, logits: Float[Tensor, "*N n"], sizes: list[int]) -> None:
        self.parts = [Categorical(part) for part in logits.split(sizes, dim=-1)]

    def sample(self) -> Int[Tensor, "*N k"]:
        return torch.stack([part.sample() for part in self.parts], dim=-1)

    def mode(self) -> Int[Tensor, "*N k"]:
        return torch.stack([part.mode() for part in self.parts], dim=-1)

    def log_prob(self, action: Int[Tensor, "*N k"]) -> Float[Tensor, "*N"]:
        choices = zip(self.parts, action.unbind(-1), strict=True)
        return torch.stack([part.log_prob(a) for part, a in choices]).sum(dim=0)

    def entropy(self) -> Float[Tensor, "*N"]:
        return torch.stack([part.entropy() for part in self.parts]).sum(dim=0)


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
        """A sample with its log-probability, differentiable by way of the noise that made it."""
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
        """A sample with its log-probability, differentiable by way of the noise that made it."""
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
        # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x)), exact also where tanh saturates.
        squash = 2 * (math.log(2) - raw - F.softplus(-2 * raw)) + self.half.log()
        return squash.sum(dim=-1)


class Joint:
    """The product of one distribution per leaf of the action space."""

    def __init__(self, parts: dict[str, Distribution]) -> None:
        self.parts = parts

    def sample(self) -> dict[str, Tensor]:
        return {key: part.sample() for key, part in self.parts.items()}

    def mode(self) -> dict[str, Tensor]:
        return {key: part.mode() for key, part in self.parts.items()}

    def log_prob(self, action: dict[str, Tensor]) -> Float[Tensor, "*N"]:
        logs = [part.log_prob(action[key]) for key, part in self.parts.items()]
        return logs[0] if len(logs) == 1 else torch.stack(logs).sum(dim=0)

    def entropy(self) -> Float[Tensor, "*N"]:
        entropies = [part.entropy() for part in self.parts.values()]
        return entropies[0] if len(entropies) == 1 else torch.stack(entropies).sum(dim=0)
