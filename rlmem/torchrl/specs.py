"""Converts Gymnasium spaces of leaves to torchrl specs of N environments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space
from torch import Tensor
from torchrl.data import (
    Binary,
    Bounded,
    BoundedContinuous,
    Categorical,
    MultiCategorical,
    MultiOneHot,
    OneHot,
    Unbounded,
)

from rlmem.errors import UsageError


class _KeepsClass(type(Bounded)):  # type: ignore[misc]
    """torchrl's metaclass turns instances of subclasses into `BoundedContinuous`; not this one."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        spec = super().__call__(*args, **kwargs)
        spec.__class__ = cls
        return spec


class HalfBounded(BoundedContinuous, metaclass=_KeepsClass):
    """A Bounded spec whose bounds may be infinite, or as large as float32 allows.

    torchrl's own samples NaN or infinity then. Here, as in Gymnasium, samples are exponential from
    a single bound, normal without bounds, and uniform between two.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # torchrl calls its own with shapes that its annotations exclude.
        super().__init__(*args, **kwargs)

    def rand(self, shape: Sequence[int] | None = None) -> Tensor:
        size = (*(shape or ()), *self.shape)
        like = {"dtype": self.dtype, "device": self.device}
        uniform, tail = torch.rand(size, **like), torch.empty(size, **like).exponential_()
        from_low, to_high = self.low.isfinite(), self.high.isfinite()
        one_sided = torch.where(from_low, self.low + tail, self.high - tail)
        # The difference of the bounds may be infinite.
        two_sided = (1 - uniform) * self.low + uniform * self.high
        drawn = torch.where(from_low & to_high, two_sided, one_sided)
        drawn = torch.where(from_low | to_high, drawn, torch.randn(size, **like))
        return drawn.clamp(self.low, self.high)

    def to(self, dest: torch.dtype | torch.device | str) -> HalfBounded:
        moved = super().to(dest)
        if moved is not self:
            moved.__class__ = HalfBounded
        return moved


class LeafSpec:
    """The spec of one leaf's tensors [N, ...], with conversion to and from the spec's encoding.

    | space         | spec                                                       | tensor          |
    |---------------|------------------------------------------------------------|-----------------|
    | Discrete      | Categorical, or OneHot with `one_hot`                      | int64 or bool   |
    | MultiDiscrete | MultiCategorical, or MultiOneHot with `one_hot`            | int64 or bool   |
    | MultiBinary   | Binary                                                     | int64           |
    | Box           | Bounded; Unbounded if any bound is infinite                | float32, uint8  |
    | Box, `action` | Bounded; HalfBounded; Unbounded if all bounds are infinite | float32         |

    Random actions are drawn from the spec of an `action`, so it has all bounds.
    """

    def __init__(
        self,
        space: Space,
        num_envs: int,
        device: torch.device,
        one_hot: bool,
        action: bool = False,
    ) -> None:
        self.sizes = _sizes(space) if one_hot else []
        self.spec = _spec(space, num_envs, device, self.sizes, action)
        self._single = isinstance(space, Discrete)

    def encode(self, tensor: Tensor) -> Tensor:
        """A new tensor in the spec's encoding, from the environment's tensor."""
        if not self.sizes:
            return tensor.clone()
        parts = tensor[:, None] if self._single else tensor
        return torch.cat(
            [
                part[:, None] == torch.arange(size, device=tensor.device)
                for part, size in zip(parts.unbind(1), self.sizes, strict=True)
            ],
            dim=1,
        )

    def decode(self, tensor: Tensor, check: bool) -> Tensor:
        """The environment's tensor; with `check`, a `UsageError` if a row is not one-hot."""
        if not self.sizes:
            return tensor
        parts = [part != 0 for part in tensor.split(self.sizes, dim=-1)]
        if check and not all(bool((part.sum(-1) == 1).all()) for part in parts):
            raise UsageError(f"actions are not one-hot, as in {self.spec}")
        numbers = [part.long().argmax(-1) for part in parts]
        return numbers[0] if self._single else torch.stack(numbers, dim=-1)


class MaskSpec:
    """The spec of an action mask, with conversion from the environment's tensor; booleans."""

    def __init__(self, space: Space, num_envs: int, device: torch.device) -> None:
        shape = torch.Size((num_envs, *(space.shape or ())))
        self.spec = Binary(shape=shape, dtype=torch.bool, device=device)

    def encode(self, tensor: Tensor) -> Tensor:
        """A new tensor in the spec's encoding, from the environment's tensor."""
        return tensor != 0


def _sizes(space: Space) -> list[int]:
    if isinstance(space, Discrete):
        return [int(space.n)]
    return space.nvec.tolist() if isinstance(space, MultiDiscrete) else []


def _spec(space: Space, num_envs: int, device: torch.device, sizes: list[int], action: bool) -> Any:
    shape = torch.Size((num_envs, *(space.shape or ())))
    if sizes:
        flat = {"shape": (num_envs, sum(sizes)), "device": device}
        return OneHot(sizes[0], **flat) if not space.shape else MultiOneHot(sizes, **flat)
    if isinstance(space, Discrete):
        return Categorical(int(space.n), shape=shape, device=device)
    if isinstance(space, MultiDiscrete):
        nvec = torch.as_tensor(space.nvec, device=device)
        return MultiCategorical(nvec, shape=shape, device=device)
    if isinstance(space, MultiBinary):
        return Binary(shape=shape, dtype=torch.int64, device=device)
    assert isinstance(space, Box)
    return _box(space, shape, device, action)


def _box(space: Box, shape: torch.Size, device: torch.device, action: bool) -> Any:
    dtype = torch.uint8 if space.dtype == np.uint8 else torch.float32
    options = {"shape": shape, "dtype": dtype, "device": device}
    low, high = (
        torch.as_tensor(bound, dtype=dtype, device=device).expand(shape)
        for bound in (space.low, space.high)
    )
    finite = low.isfinite() & high.isfinite()
    if not (low.isfinite() | high.isfinite()).any() or not (action or finite.all()):
        return Unbounded(**options)
    if action and not (high - low).isfinite().all():
        return HalfBounded(low, high, **options)
    return Bounded(low, high, **options)
