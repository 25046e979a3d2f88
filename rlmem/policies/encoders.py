"""Encoders: observations of any supported space to one feature vector per time step."""

from __future__ import annotations

import math
from itertools import pairwise

import gymnasium as gym
import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlmem.errors import UsageError, unknown

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
# Smaller uint8 arrays are grids of features: encoded as numbers, not by convolutions.
MIN_IMAGE_SIDE = 20


def mlp(sizes: list[int], activation: str) -> nn.Sequential:
    """A linear layer, LayerNorm and activation for each pair of neighbouring `sizes`."""
    if activation not in ACTIVATIONS:
        raise unknown("activation", activation, ACTIVATIONS)
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(sizes):
        linear = nn.Linear(width_in, width_out)
        nn.init.orthogonal_(linear.weight, math.sqrt(2))
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.LayerNorm(width_out), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


def is_image(space: gym.Space) -> bool:
    """Whether a space holds uint8 images [height, width, channels] that are not too small."""
    return (
        isinstance(space, gym.spaces.Box)
        and space.dtype == "uint8"
        and len(space.shape) == 3
        and min(space.shape[:2]) >= MIN_IMAGE_SIDE
    )


def categories(space: gym.Space) -> list[int]:
    """The number of values of each entry of a discrete space (flattened)."""
    if isinstance(space, gym.spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, gym.spaces.MultiDiscrete):
        return [int(n) for n in space.nvec.flatten()]
    if isinstance(space, gym.spaces.MultiBinary):
        return [2] * math.prod(space.shape)
    raise UsageError(f"{space} is not a discrete space")


class Encoder(nn.Module):
    """Observations (leaves [*N, ...]) to features [*N, output_size].

    Discrete leaves are one-hot, Box leaves are used as numbers, and images go through three
    convolutions (Mnih et al. 2015). An MLP of `layers` layers reads their concatenation.
    """

    offsets: Tensor

    def __init__(
        self, spaces: dict[str, gym.Space], output_size: int, layers: int, activation: str
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.images = [key for key, space in spaces.items() if is_image(space)]
        self.boxes = [
            key
            for key, space in spaces.items()
            if isinstance(space, gym.spaces.Box) and key not in self.images
        ]
        self.discrete = [k for k in spaces if k not in self.images and k not in self.boxes]
        counts = [n for key in self.discrete for n in categories(spaces[key])]
        self.one_hot_size = sum(counts)
        offsets = torch.tensor([0, *counts]).cumsum(0)[:-1]
        self.register_buffer("offsets", offsets, persistent=False)
        self.box_dims = [len(spaces[key].shape or ()) for key in self.boxes]
        self.discrete_dims = [len(spaces[key].shape or ()) for key in self.discrete]
        self.convolutions = nn.ModuleList(
            Convolutions(spaces[key].shape or (), output_size) for key in self.images
        )
        box_size = sum(math.prod(spaces[key].shape or ()) for key in self.boxes)
        size = self.one_hot_size + box_size + output_size * len(self.images)
        self.mlp = mlp([size] + [output_size] * layers, activation)

    def forward(self, obs: dict[str, Tensor]) -> Float[Tensor, "*N H"]:
        parts = [conv(obs[key]) for key, conv in zip(self.images, self.convolutions, strict=True)]
        for key, dims in zip(self.boxes, self.box_dims, strict=True):
            parts.append(_flat(obs[key], dims).to(self.dtype))
        if self.discrete:
            indices = torch.cat(
                [
                    _flat(obs[k].long(), d)
                    for k, d in zip(self.discrete, self.discrete_dims, strict=True)
                ],
                dim=-1,
            )
            hot = torch.zeros(
                *indices.shape[:-1], self.one_hot_size, dtype=self.dtype, device=indices.device
            )
            parts.append(hot.scatter_(-1, indices + self.offsets, 1.0))
        return self.mlp(torch.cat(parts, dim=-1))

    @property
    def dtype(self) -> torch.dtype:
        """Floating dtype of the parameters."""
        return next(self.mlp.parameters()).dtype


def _flat(x: Tensor, dims: int) -> Tensor:
    """Flattens the last `dims` dimensions into one; adds one if `dims` is 0."""
    return x.flatten(-dims) if dims else x.unsqueeze(-1)


class Convolutions(nn.Module):
    """uint8 images [*N, height, width, channels] to [*N, output_size]."""

    def __init__(self, shape: tuple[int, ...], output_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(shape[2], 32, 8, stride=4, padding=2),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(64 * 16, output_size),
        )

    def forward(self, image: Tensor) -> Float[Tensor, "*N H"]:
        rows = image.flatten(0, -4).movedim(-1, 1).float() / 255
        return self.layers(rows).unflatten(0, image.shape[:-3])
