"""Encoders: observations of any supported space to one feature vector per time step.

`Encoder` is the contract, `LeafEncoder` the one that policies use by default.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import gymnasium as gym
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlmem.errors import unknown
from rlmem.kernels import Linear, linear_norm
from rlmem.policies.images import Convolutions, ImageLayout, ImageModule, image_layouts
from rlmem.policies.normalizer import Normalizer
from rlmem.registry import REQUIRED, Registry
from rlmem.spaces.discrete import categories, first_values

registry: Registry[nn.Module] = Registry("encoder", "rlmem.policies.encoders", "rlmem.encoders")
register = registry.register

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


class MLP(nn.Sequential):
    """Linear layer, LayerNorm and activation, any number of times; all three are one operator."""

    def forward(self, x: Tensor) -> Tensor:
        layers: list[Any] = list(self)
        for dense, norm, activation in zip(*(iter(layers),) * 3, strict=True):
            leaky = isinstance(activation, nn.LeakyReLU)
            slope = activation.negative_slope if leaky else 1.0
            x = linear_norm(x, dense.weight, dense.bias, norm.weight, norm.bias, slope, norm.eps)
            x = x if leaky else activation(x)
        return x


def mlp(sizes: list[int], activation: str) -> MLP:
    """A linear layer, LayerNorm and activation for each pair of neighbouring `sizes`."""
    if activation not in ACTIVATIONS:
        raise unknown("activation", activation, ACTIVATIONS)
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(sizes):
        dense = Linear(width_in, width_out)
        nn.init.orthogonal_(dense.weight, math.sqrt(2))
        nn.init.zeros_(dense.bias)
        layers += [dense, nn.LayerNorm(width_out), ACTIVATIONS[activation]()]
    return MLP(*layers)


class Encoder(nn.Module, ABC):
    """Observations (leaves [*N, ...]) to features [*N, output_size].

    A subclass implements `encode` for the leaves `spaces`. It knows no statistics: with a
    `normalizer`, `encode` gets the normalised observations.
    """

    def __init__(self, spaces: Mapping[str, gym.Space], output_size: int) -> None:
        super().__init__()
        self.spaces = dict(spaces)
        self.output_size = output_size
        self.shapes = {key: tuple(space.shape or ()) for key, space in spaces.items()}
        self.normalizer: Normalizer | None = None

    @abstractmethod
    def encode(self, obs: dict[str, Tensor]) -> Float[Tensor, "*N H"]:
        """The features of observations, one vector for each time step."""

    def forward(self, obs: dict[str, Tensor]) -> Float[Tensor, "*N H"]:
        return self.encode(obs if self.normalizer is None else self.normalizer(obs))

    def encode_step(self, obs: dict[str, Tensor], start: Bool[Tensor, "N"]) -> Float[Tensor, "N H"]:
        """Features of one time step; ValueError if a leaf is not [N, ...]."""
        check_batch(self.shapes, obs, start, "N")
        return self(obs)

    def encode_row(
        self, obs: dict[str, Tensor], start: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B T H"]:
        """Features of a row of time steps; ValueError if a leaf is not [B, T, ...]."""
        check_batch(self.shapes, obs, start, "B T")
        return self(obs)

    def describe(self) -> dict[str, str]:
        """How each leaf is read: one line of text for each."""
        return {key: self._description(key, space) for key, space in self.spaces.items()}

    def _description(self, key: str, space: gym.Space) -> str:
        return f"{space} → {type(self).__name__}{self._scaling(key, '')}"

    def _scaling(self, key: str, otherwise: str) -> str:
        """How the numbers of a leaf are scaled, as the end of its description."""
        found = self.normalizer is not None and key in self.normalizer.keys
        return ", normalised" if found else otherwise


SIZES = {"spaces": REQUIRED, "output_size": REQUIRED}


@register("default", {**SIZES, "layers": 1, "activation": "leaky_relu"})
class LeafEncoder(Encoder):
    """The default encoder: reads each leaf by its kind.

    Discrete leaves are one-hot, images and grids go through convolutions (see `image_layout`), and
    other Box leaves are used as numbers. An MLP of `layers` layers reads their concatenation.

    `layouts` are the images among the leaves (None: those of `image_layout`), and
    `image(layout, output_size)` makes the module of one.
    """

    offsets: Tensor

    def __init__(
        self,
        spaces: Mapping[str, gym.Space],
        output_size: int,
        layers: int = 1,
        activation: str = "leaky_relu",
        layouts: Mapping[str, ImageLayout] | None = None,
        image: Callable[[ImageLayout, int], ImageModule] = Convolutions,
    ) -> None:
        super().__init__(spaces, output_size)
        self.layouts = image_layouts(spaces) if layouts is None else dict(layouts)
        self.images = list(self.layouts)
        self.boxes = [
            key
            for key, space in spaces.items()
            if isinstance(space, gym.spaces.Box) and key not in self.images
        ]
        self.discrete = [k for k in spaces if k not in self.images and k not in self.boxes]
        counts = [n for key in self.discrete for n in categories(spaces[key])]
        self.one_hot_size = sum(counts)
        starts = [first for key in self.discrete for first in first_values(spaces[key])]
        offsets = torch.tensor([0, *counts]).cumsum(0)[:-1] - torch.tensor(starts).long()
        self.register_buffer("offsets", offsets, persistent=False)
        self.box_dims = [len(self.shapes[key]) for key in self.boxes]
        self.discrete_dims = [len(self.shapes[key]) for key in self.discrete]
        self.convolutions = nn.ModuleList(
            image(layout, output_size) for layout in self.layouts.values()
        )
        box_size = sum(math.prod(self.shapes[key]) for key in self.boxes)
        size = self.one_hot_size + box_size + output_size * len(self.images)
        self.mlp = mlp([size] + [output_size] * layers, activation)

    def encode(self, obs: dict[str, Tensor]) -> Float[Tensor, "*N H"]:
        parts = [conv(obs[key]) for key, conv in zip(self.images, self.convolutions, strict=True)]
        for key, dims in zip(self.boxes, self.box_dims, strict=True):
            parts.append(flat(obs[key], dims).to(self.dtype))
        if self.discrete:
            indices = torch.cat(
                [
                    flat(obs[k].long(), d)
                    for k, d in zip(self.discrete, self.discrete_dims, strict=True)
                ],
                dim=-1,
            )
            hot = torch.zeros(
                *indices.shape[:-1], self.one_hot_size, dtype=self.dtype, device=indices.device
            )
            parts.append(hot.scatter_(-1, indices + self.offsets, 1.0))
        return self.mlp(torch.cat(parts, dim=-1))

    def _description(self, key: str, space: gym.Space) -> str:
        size, shape = math.prod(self.shapes[key]), "x".join(map(str, self.shapes[key]))
        if layout := self.layouts.get(key):
            kind = "grid" if layout.is_grid else "image"
            module = self.convolutions[self.images.index(key)]
            return f"{space.dtype} {layout.letters} {kind} {shape} → {module.summary}"
        if key in self.boxes:
            kind = f"array {shape}" if len(self.shapes[key]) > 1 else f"vector of {size}"
            scaling = self._scaling(key, ", not scaled")
            return f"{space.dtype} {kind if shape else 'number'} → {size} inputs{scaling}"
        inputs = sum(categories(space))
        entries = f" with {size} entries" if shape else ""
        return f"{type(space).__name__}{entries} → one-hot, {inputs} inputs"

    @property
    def dtype(self) -> torch.dtype:
        """Floating dtype of the parameters."""
        return next(self.mlp.parameters()).dtype


def check_batch(
    shapes: Mapping[str, tuple[int, ...]], obs: Mapping[str, Tensor], start: Tensor, batch: str
) -> None:
    """Compares the shapes of observations with those of their spaces.

    `batch` names the batch dimensions, "N" or "B T", which are those of `start`. Raises ValueError,
    which names the leaf, for a missing leaf or a wrong shape.
    """
    names = batch.split()
    if start.dim() != len(names):
        raise ValueError(f"start is {list(start.shape)}; expected [{', '.join(names)}]")
    for key, shape in shapes.items():
        leaf = obs.get(key)
        if leaf is None:
            raise ValueError(f"obs {key!r} is missing (given: {', '.join(obs) or 'none'})")
        if leaf.shape != (*start.shape, *shape):
            expected = ", ".join(map(str, (*names, *shape)))
            sizes = ", ".join(f"{n} = {k}" for n, k in zip(names, start.shape, strict=True))
            raise ValueError(
                f"obs {key!r} is {list(leaf.shape)}; expected [{expected}] with {sizes} as in start"
            )


def flat(x: Tensor, dims: int) -> Tensor:
    """Flattens the last `dims` dimensions into one; adds one if `dims` is 0."""
    return x.flatten(-dims) if dims else x.unsqueeze(-1)
