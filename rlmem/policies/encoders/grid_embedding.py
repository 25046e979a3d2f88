"""Embeddings for small grids of tokens, such as MiniGrid's cells (object, colour, state)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gymnasium as gym
import numpy as np

from rlmem.errors import UsageError, positive, unknown
from rlmem.policies.encoders.base import LeafEncoder, register
from rlmem.policies.images import (
    EMBEDDING,
    Convolutions,
    ImageLayout,
    image_layouts,
    token_layout,
)


@register("grid_embedding")
def grid_embedding(
    spaces: Mapping[str, gym.Space],
    output_size: int,
    layers: int = 1,
    activation: str = "leaky_relu",
    embedding_size: int = EMBEDDING,
    max_values: int = 256,
    leaves: Sequence[str] | None = None,
) -> LeafEncoder:
    """The default encoder with embeddings for all grids of tokens, also those with bytes' bounds.

    A cell is the sum of one vector of `embedding_size` for each of its channels' values; small
    convolutions read the cells. Tokens are Boxes of integers with at least two dimensions, a side
    below 20, and at most `max_values` values; or the Boxes named in `leaves`, of any side and
    dtype. (By default a grid with more than 32 values is read as brightness: its numbers have an
    order.) Raises `UsageError` if there are none, or a leaf in `leaves` cannot be one.
    """
    positive("encoder_options.embedding_size", embedding_size)
    positive("encoder_options.max_values", max_values)
    for key in leaves or ():
        if key not in spaces:
            raise unknown("leaf in encoder_options.leaves:", key, spaces)
    named = {key: spaces[key] for key in leaves or ()}
    found = {key: token_layout(space, max_values) for key, space in named.items()}
    if leaves is None:
        found = {key: _tokens(space, max_values) for key, space in spaces.items()}
    tokens = {key: layout for key, layout in found.items() if layout is not None}
    if not tokens or len(tokens) < len(named):
        raise UsageError(
            "encoder 'grid_embedding' reads Boxes of whole numbers with at least two dimensions "
            f"and from 3 to {max_values} values (encoder_options.max_values), not "
            + ", ".join(f"{key}: {space}" for key, space in (named or spaces).items())
        )

    def image(layout: ImageLayout, size: int) -> Convolutions:
        return Convolutions(layout, size, embedding_size)

    layouts = {**image_layouts(spaces), **tokens}
    ordered = {key: layouts[key] for key in spaces if key in layouts}
    return LeafEncoder(spaces, output_size, layers, activation, ordered, image)


def _tokens(space: gym.Space, max_values: int) -> ImageLayout | None:
    """The layout of a Box of integers whose shape is that of a grid."""
    found = token_layout(space, max_values)
    small = found is not None and found._replace(symbols=0).is_grid
    return found if small and np.dtype(space.dtype).kind in "iu" else None
