"""Images and grids in observations: how an array is read as one, and its convolutions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

# Images with a shorter side are grids of cells: a smaller convolution reads every cell.
MIN_IMAGE_SIDE = 20
# Arrays with a shorter side are plain numbers.
MIN_GRID_SIDE = 3
# Small matrices with longer sides are not grids, but for example the last four of a long vector.
MAX_RATIO = 4
# Cells with at most so many different integers are symbols, not brightness: they get embeddings.
MAX_SYMBOLS = 32
# A bound this far away is none: libraries write the largest float instead of infinity.
UNBOUNDED = 1e30
EMBEDDING = 16
CELLS = 10  # longest side of the last feature map of a grid


class ImageLayout(NamedTuple):
    """An array that is read as an image; its dimensions are numbered without the batch's.

    `sides` are the dimensions height and width, `channels` all others (channels, frames), `shape`
    is [channels, height, width] with all of `channels` merged. `low + span * x` is the entry for
    brightness x from 0 to 1; `span` is 1 and `low` 0 without bounds. `symbols` is the number of
    values of an entry if they are symbols, and 0 otherwise.
    """

    channels: tuple[int, ...]
    sides: tuple[int, int]
    shape: tuple[int, int, int]
    low: float
    span: float
    symbols: int

    @property
    def is_grid(self) -> bool:
        """Whether cells are symbols, or a side is too short for an image."""
        return self.symbols > 0 or min(self.shape[1:]) < MIN_IMAGE_SIDE

    @property
    def letters(self) -> str:
        """The dimensions in their order: F frames, C channels, H height, W width."""
        names = dict(zip(self.sides, "HW", strict=True))
        others = "F" * (len(self.channels) - 1) + "C"
        names |= dict(zip(self.channels, others, strict=False))
        return "".join(names[dim] for dim in sorted(names))

    def rows(self, x: Tensor) -> Tensor:
        """Arrays [*N, ...] as rows [M, channels, height, width], of their own dtype."""
        x = x.flatten(0, -1 - len(self.channels) - 2)
        x = x.permute(0, *(1 + dim for dim in (*self.channels, *self.sides)))
        return x.reshape(x.shape[0], *self.shape)  # not `len`: it cannot be traced

    def brightness(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Arrays [*N, ...] as rows [M, channels, height, width] of brightness from 0 to 1."""
        rows = self.rows(x).to(dtype)
        if self.low:
            rows = rows - self.low
        return rows / self.span


def image_layout(space: gym.Space) -> ImageLayout | None:
    """The layout of a space of images or grids; None for any other space.

    Integers of any bounds count, and floats with the bounds 0 and 1 or 0 and 255 (Gymnasium,
    Stable-Baselines3). So do floats of other bounds with three dimensions and sides of at least
    `MIN_IMAGE_SIDE`: as a vector they would have hundreds of inputs. Small matrices of floats from
    0 to 1 do not count, nor do small matrices with sides of very different lengths.
    """
    if not isinstance(space, gym.spaces.Box) or len(space.shape) < 2:
        return None
    first = _height(space.shape)
    height, width = space.shape[first : first + 2]
    low, high = float(space.low.min()), float(space.high.max())
    whole = np.dtype(space.dtype).kind in "uib"
    deep, grid = len(space.shape) > 2, min(height, width) < MIN_IMAGE_SIDE
    if min(height, width) < MIN_GRID_SIDE:
        return None
    if grid and not deep and max(height, width) > MAX_RATIO * min(height, width):
        return None
    scaled = low == 0 and high in (1, 255)
    if not (whole or (deep and (scaled or not grid)) or (scaled and (high > 1 or not grid))):
        return None
    if low <= -UNBOUNDED or high >= UNBOUNDED or low == high:
        low, high = 0.0, 1.0
    values = int(high - low) + 1 if whole and grid else 0
    symbols = values if 2 < values <= MAX_SYMBOLS else 0
    return _layout(space.shape, first, low, high, symbols)


def image_layouts(spaces: Mapping[str, gym.Space]) -> dict[str, ImageLayout]:
    """The layouts of all leaves that are images or grids."""
    found = {key: image_layout(space) for key, space in spaces.items()}
    return {key: layout for key, layout in found.items() if layout is not None}


def token_layout(space: gym.Space, max_values: int) -> ImageLayout | None:
    """The layout of a grid of tokens; None for any other space.

    That is a Box with at least two dimensions, whole numbers as bounds, and from 3 to `max_values`
    values between them. Its dtype may be a float: `rlmem.envs.spaces` converts most integers.
    """
    if not isinstance(space, gym.spaces.Box) or len(space.shape) < 2:
        return None
    low, high = float(space.low.min()), float(space.high.max())
    if not (low.is_integer() and high.is_integer() and 2 < high - low + 1 <= max_values):
        return None
    return _layout(space.shape, _height(space.shape), low, high, int(high - low) + 1)


def _layout(
    shape: tuple[int, ...], first: int, low: float, high: float, symbols: int
) -> ImageLayout:
    """The layout of arrays whose height is dimension `first`."""
    sides = (first, first + 1)
    channels = tuple(dim for dim in range(len(shape)) if dim not in sides)
    depth = math.prod(shape[dim] for dim in channels)
    size = (depth, shape[first], shape[first + 1])
    return ImageLayout(channels, sides, size, low, high - low, symbols)


def _height(shape: tuple[int, ...]) -> int:
    """The first of the two neighbouring dimensions that are height and width.

    They are equal, or else have the largest area: so channels are the smaller one of the first and
    the last dimension, as in Stable-Baselines3, unless the image is square.
    """
    pairs = list(pairwise(shape))
    square = any(height == width for height, width in pairs)
    areas = [h * w if h == w or not square else 0 for h, w in pairs]
    return areas.index(max(areas))


class ImageModule(nn.Module):
    """Images [*N, ...] of one layout to features [*N, output_size]; `summary` names it in a few
    words.
    """

    summary: str


class Convolutions(ImageModule):
    """Images or grids [*N, ...] to [*N, output_size]; `layers` read brightness from 0 to 1.

    For images these are the three convolutions of Mnih et al. (2015), for grids two small ones;
    symbols of a grid have one embedding for each channel and value, summed over the channels.
    """

    offsets: Tensor

    def __init__(
        self, layout: ImageLayout, output_size: int, embedding_size: int = EMBEDDING
    ) -> None:
        super().__init__()
        self.layout = layout
        depth, height, width = layout.shape
        number = depth * layout.symbols
        self.symbols = nn.Embedding(number, embedding_size) if number else None
        if layout.symbols:
            # Embedding of a channel's lowest value.
            offsets = torch.arange(depth) * layout.symbols - int(layout.low)
            self.register_buffer("offsets", offsets, persistent=False)
        if layout.is_grid:
            depth = embedding_size if layout.symbols else depth
            self.layers = grid_layers(depth, height, width, output_size)
        else:
            self.layers = image_layers(depth, output_size)
        kind = "small convolution" if layout.is_grid else "convolution"
        symbols = f"embedding of {layout.symbols} values, " if layout.symbols else ""
        self.summary = symbols + kind

    def forward(self, x: Tensor) -> Float[Tensor, "*N H"]:
        batch = x.shape[: x.dim() - len(self.layout.channels) - 2]
        if self.symbols is not None:
            return self.layers(self._embed(self.layout.rows(x))).unflatten(0, batch)
        dtype = next(self.layers.parameters()).dtype
        return self.layers(self.layout.brightness(x, dtype)).unflatten(0, batch)

    def _embed(self, rows: Tensor) -> Float[Tensor, "M E height width"]:
        """The sum of the channels' embeddings in each cell."""
        assert self.symbols is not None
        index = rows.movedim(1, -1).long() + self.offsets
        if torch.compiler.is_exporting():  # ONNX has no sums of embeddings
            return self.symbols(index).sum(dim=-2).movedim(-1, 1)
        cells = F.embedding_bag(index.flatten(0, -2), self.symbols.weight, mode="sum")
        return cells.unflatten(0, index.shape[:-1]).movedim(-1, 1)


def image_layers(channels: int, output_size: int) -> nn.Sequential:
    """Layers [M, channels, height, width] to [M, output_size] for images."""
    return nn.Sequential(
        nn.Conv2d(channels, 32, 8, stride=4, padding=2),
        nn.ReLU(),
        nn.Conv2d(32, 64, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(64 * 16, output_size),
    )


def grid_layers(channels: int, height: int, width: int, output_size: int) -> nn.Sequential:
    """Layers [M, channels, height, width] to [M, output_size] for grids.

    Biases begin at 0: features keep their direction if all cells hold small numbers.
    """
    cells = min((height + 1) // 2, CELLS), min((width + 1) // 2, CELLS)
    layers = nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(cells),
        nn.Flatten(),
        nn.Linear(32 * math.prod(cells), output_size),
    )
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.orthogonal_(layer.weight, math.sqrt(2))
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return layers
