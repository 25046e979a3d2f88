"""Encoders of a user, as a module would hold them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rlmem.errors import UsageError


class Flat(nn.Module):
    """All numbers and indices in one vector, scaled as bytes, through one layer."""

    def __init__(self, spaces: dict[str, Any], output_size: int, gain: float = 1.0) -> None:
        super().__init__()
        self.keys = list(spaces)
        self.linear = nn.LazyLinear(output_size)
        sample = {key: torch.zeros(1, *(space.shape or ())) for key, space in spaces.items()}
        self.gain = gain
        self(sample)

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        # Plain modules see one batch dimension, also in rows of time steps.
        parts = [
            obs[key].float().flatten(1) if obs[key].dim() > 1 else obs[key].float()[:, None]
            for key in self.keys
        ]
        return self.gain * self.linear(torch.cat(parts, dim=1) / 255)


class TooWide(Flat):
    def __init__(self, spaces: dict[str, Any], output_size: int) -> None:
        super().__init__(spaces, output_size + 1)


class Fails(nn.Module):
    def __init__(self, spaces: dict[str, Any], output_size: int) -> None:
        super().__init__()

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        raise RuntimeError("no such thing\nas a second line")


class Refuses(nn.Module):
    def __init__(self, spaces: dict[str, Any], output_size: int) -> None:
        super().__init__()
        raise UsageError("it refuses these spaces")


class Anything(Flat):
    def __init__(self, spaces: dict[str, Any], output_size: int, **rest: Any) -> None:
        super().__init__(spaces, output_size)
        self.rest = rest


def not_a_module(spaces: dict[str, Any], output_size: int) -> Any:
    return output_size


def broken(spaces: dict[str, Any], output_size: int) -> nn.Module:
    raise KeyError("width")
