"""Running statistics: observations in units of their deviation, saved with the policy.

Mean M and sum of squared deviations S of n values are merged with those of a batch (Chan, Golub
and LeVeque 1983, "Algorithms for computing the sample variance", eq. 2.1):

    d = M_b - M,    M <- M + d n_b / (n + n_b),    S <- S + S_b + d^2 n n_b / (n + n_b)

All three are float64 buffers, saved with the weights. Those of several ranks are merged in the same
way, in the order of the ranks: so they are equal on all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from rlmem.errors import UsageError
from rlmem.policies.images import image_layout
from rlmem.ranks import group, reduce
from rlmem.spaces.unit_box import UnitBox

# Entries beyond this size are normalised by `auto`.
LARGE = 10.0
MODES = ("auto", "true", "false")
# The least deviation: of an entry, and as a share of its mean. A smaller one is rounding.
LEAST, LEAST_SHARE = 1e-8, 1e-6


class RunningMoments(nn.Module):
    """Number, mean and sum of squared deviations of vectors of `size` numbers.

    Before the first update the variance is 1, or that of `guess`.
    """

    count: Tensor
    mean: Tensor
    m2: Tensor
    scale: Tensor  # the deviation, which every step reads

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        # Without a count, this is a guess of the variance itself.
        self.register_buffer("m2", torch.ones(size, dtype=torch.float64))
        scale = torch.ones(size, dtype=torch.float64)
        self.register_buffer("scale", scale, persistent=False)

    @property
    def variance(self) -> Float64[Tensor, "K"]:
        """The variance of each entry."""
        return self.m2 / self.count.clamp(min=1)

    @property
    def deviation(self) -> Float64[Tensor, "K"]:
        """The standard deviation of each entry, at least `LEAST`."""
        least = (LEAST_SHARE * self.mean.abs()).clamp(min=LEAST)
        return torch.maximum(self.variance.sqrt(), least)

    @torch.no_grad()
    def guess(self, x: Float[Tensor, "M K"]) -> None:
        """Guess the scale from a first batch: its root mean square, at least 1.

        Does nothing after the first update.
        """
        square = reduce.mean(x.double().square().mean(0)).clamp(min=1)
        self.m2.copy_(torch.where((self.count == 0) & square.isfinite(), square, self.m2))
        self.scale.copy_(self.deviation)

    @torch.no_grad()
    def update(self, x: Float[Tensor, "M K"]) -> None:
        """Include the vectors of a batch; an entry that is NaN or infinite in one is left out.

        With several ranks, those of all of them.
        """
        values = x.double()
        mean = values.mean(0)
        own = torch.full_like(mean, len(x)), mean, (values - mean).square().sum(0)
        if not group.several():
            self.merge(*own)
            return
        for each in reduce.gather(torch.stack(own)):
            self.merge(*each.unbind())

    @torch.no_grad()
    def merge(
        self,
        count: Float64[Tensor, "K"],
        mean: Float64[Tensor, "K"],
        m2: Float64[Tensor, "K"],
    ) -> None:
        """Include other vectors with these moments: of a batch, or of another process."""
        usable = m2.isfinite() & (count > 0)
        total = self.count + count
        share = torch.where(usable, count / total, 0)
        change = torch.where(usable, mean - self.mean, 0)
        own = torch.where(self.count > 0, self.m2, 0)
        sum_ = own + m2 + change.square() * self.count * share
        self.m2.copy_(torch.where(usable, sum_, self.m2))
        self.mean.add_(change * share)
        self.count.add_(torch.where(usable, count, 0))
        self.scale.copy_(self.deviation)

    @torch.no_grad()
    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.scale.copy_(self.deviation)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RunningMoments:
        # Moves to another device, but stays float64: counts overflow half precision.
        for name, buffer in self._buffers.items():
            assert buffer is not None
            self._buffers[name] = buffer.to(fn(buffer).device)
        return self


class Normalizer(RunningMoments):
    """Observations with some leaves normalised: `(x - mean) / deviation`, clipped to +-`clip`.

    `spaces` are those leaves. The statistics change in `update` only, which the algorithm calls
    between two iterations: so acting, evaluation and all losses of an iteration see the same ones.
    """

    def __init__(self, spaces: Mapping[str, gym.Space], clip: float | None = LARGE) -> None:
        self.shapes = {key: tuple(space.shape or ()) for key, space in spaces.items()}
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.keys = tuple(spaces)
        self.clip = clip
        super().__init__(sum(self.sizes))

    def forward(self, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All leaves [*N, ...] of an observation, those of `spaces` normalised, as float32."""
        x = (self._vectors(obs) - self.mean) / self.scale
        if self.clip is not None:
            x = x.clamp(-self.clip, self.clip)
        leaves = x.to(torch.float32).split(self.sizes, dim=-1)
        changed = {
            key: leaf.reshape(*leaf.shape[:-1], *shape)
            for (key, shape), leaf in zip(self.shapes.items(), leaves, strict=True)
        }
        return {**obs, **changed}

    def guess_from(self, obs: Mapping[str, Tensor]) -> None:
        """Guess the scale from first observations [*N, ...]."""
        self.guess(self._vectors(obs).flatten(0, -2))

    def observe(self, obs: Mapping[str, Tensor]) -> None:
        """Include observations [*N, ...] in the statistics."""
        self.update(self._vectors(obs).flatten(0, -2))

    def _vectors(self, obs: Mapping[str, Tensor]) -> Float64[Tensor, "*N K"]:
        """The entries of all normalised leaves in one vector."""
        parts = [
            obs[key].double().flatten(-len(shape)) if shape else obs[key].double().unsqueeze(-1)
            for key, shape in self.shapes.items()
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def normalized_leaves(spaces: Mapping[str, gym.Space], mode: bool | str) -> dict[str, gym.Space]:
    """The leaves to normalise. Images, grids and discrete leaves never are.

    True: all other Box leaves; False: none; "auto": those without bounds or with bounds beyond
    `LARGE`, except `UnitBox`. Raises `UsageError` for another mode.
    """
    # The command line gives text.
    chosen = str(mode).lower()
    if chosen not in MODES:
        raise UsageError(f"normalize_obs must be auto, true or false, not {mode!r}")
    return {
        key: space
        for key, space in spaces.items()
        if isinstance(space, gym.spaces.Box)
        and image_layout(space) is None
        and (chosen == "true" or (chosen == "auto" and _is_large(space)))
    }


def _is_large(space: gym.spaces.Box) -> bool:
    if isinstance(space, UnitBox):
        return False
    return bool((abs(space.low) > LARGE).any() or (abs(space.high) > LARGE).any())


def make_normalizer(
    spaces: Mapping[str, gym.Space], mode: bool | str, clip: float | None
) -> Normalizer | None:
    """The normaliser for these leaves, or None if none is to be normalised."""
    if clip is not None and not clip > 0:
        raise UsageError(f"clip_obs must be above 0 or null, not {clip}")
    found = normalized_leaves(spaces, mode)
    return Normalizer(found, clip) if found else None


def normalizers(policy: Any) -> list[Normalizer]:
    """All normalisers of a policy; it may be any agent."""
    modules = policy.modules() if isinstance(policy, nn.Module) else ()
    return [module for module in modules if isinstance(module, Normalizer)]
