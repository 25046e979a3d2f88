"""Converts Gymnasium spaces of leaves to torchrl specs of N environments."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space
from torch import Tensor
from torchrl.data import (
    Binary,
    Bounded,
    Categorical,
    MultiCategorical,
    MultiOneHot,
    OneHot,
    Unbounded,
)

from rlmem.errors import UsageError


class LeafSpec:
    """The spec of one leaf's tensors [N, ...], with conversion to and from the spec's encoding.

    | space         | spec                                                       | tensor          |
    |---------------|------------------------------------------------------------|-----------------|
    | Discrete      | Categorical, or OneHot with `one_hot`                      | int64 or bool   |
    | MultiDiscrete | MultiCategorical, or MultiOneHot with `one_hot`            | int64 or bool   |
    | MultiBinary   | Binary                                                     | int64           |
    | Box           | Bounded; Unbounded if any bound is infinite                | float32, uint8  |

    A Bounded spec with an infinite bound would sample NaN.
    """

    def __init__(self, space: Space, num_envs: int, device: torch.device, one_hot: bool) -> None:
        self.sizes = _sizes(space) if one_hot else []
        self.spec = _spec(space, num_envs, device, self.sizes)
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


def _sizes(space: Space) -> list[int]:
    if isinstance(space, Discrete):
        return [int(space.n)]
    return space.nvec.tolist() if isinstance(space, MultiDiscrete) else []


def _spec(space: Space, num_envs: int, device: torch.device, sizes: list[int]) -> Any:
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
    dtype = torch.uint8 if space.dtype == np.uint8 else torch.float32
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        return Unbounded(shape=shape, dtype=dtype, device=device)
    low, high = (torch.as_tensor(bound, device=device) for bound in (space.low, space.high))
    return Bounded(low.expand(shape), high.expand(shape), shape=shape, dtype=dtype, device=device)
