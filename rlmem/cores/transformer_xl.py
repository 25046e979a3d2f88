"""Transformer-XL (Dai et al. 2019, arXiv 1901.02860) with a window that slides.

Every step sees itself and the `memory` steps before it in each layer, within its episode:

    h = x + Attention(LN(x)),   y = h + W_2 relu(W_1 LN(h))            (norm: pre)
    h = LN(x + Attention(x)),   y = LN(h + W_2 relu(W_1 h))            (norm: post, the paper's)

The paper moves by whole segments, so that how far a step sees depends on its place in one; an agent
that acts step by step has no segments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlmem.cores.attention import Cache, WindowAttention
from rlmem.cores.base import MemoryCore, fitted, register
from rlmem.errors import positive, unknown
from rlmem.kernels.episodes import next_age

NORMS = ("pre", "post")


class WindowState(NamedTuple):
    """The memories of the layers, and the steps of the episode that are past, [B] int64."""

    layers: tuple[Cache, ...]
    age: Tensor


class Block(nn.Module):
    """One layer: attention and a feedforward network, each with its norm and residual path.

    `attend` is the attention's step or scan; subclasses join what comes out of a part with what
    went in in another way.
    """

    def __init__(
        self, width: int, heads: int, memory: int, ff_size: int, position: str, norm: str
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise unknown("norm", norm, NORMS)
        self.pre = norm == "pre"
        self.attention = WindowAttention(width, heads, memory, position)
        self.attention_norm = nn.LayerNorm(width)
        self.ff = nn.Sequential(nn.Linear(width, ff_size), nn.ReLU(), nn.Linear(ff_size, width))
        self.ff_norm = nn.LayerNorm(width)

    def forward(
        self, x: Tensor, attend: Callable[[Tensor], tuple[Tensor, Cache]]
    ) -> tuple[Tensor, Cache]:
        """The layer's output and its next memory."""
        if self.pre:
            y, cache = attend(self.attention_norm(x))
            x = self.join_attention(x, y)
            return self.join_ff(x, self.ff(self.ff_norm(x))), cache
        y, cache = attend(x)
        x = self.attention_norm(self.join_attention(x, y))
        return self.ff_norm(self.join_ff(x, self.ff(x))), cache

    def join_attention(self, x: Tensor, y: Tensor) -> Tensor:
        """The residual path around the attention."""
        return x + y

    def join_ff(self, x: Tensor, y: Tensor) -> Tensor:
        """The residual path around the feedforward network."""
        return x + y


class WindowTransformer(MemoryCore[WindowState]):
    """`blocks` of the width `output_size`; a linear map leads there from another `input_size`."""

    forgets_nonfinite = False  # a weight of 0 times a NaN is a NaN
    blocks: nn.ModuleList

    def __init__(self, input_size: int, output_size: int | None = None) -> None:
        super().__init__(input_size, output_size)
        width = self.output_size
        self.embed = fitted(self.input_size, width)

    def initial_state(self, batch_size: int) -> WindowState:
        like = self.zeros(0)
        caches = (block.attention.empty(batch_size, like) for block in self._blocks())
        return WindowState(tuple(caches), self.zeros(batch_size, dtype=torch.int64))

    def update(
        self, x: Float[Tensor, "B I"], state: WindowState
    ) -> tuple[Float[Tensor, "B O"], WindowState]:
        x, caches = self.embed(x), []
        for block, cache in zip(self._blocks(), state.layers, strict=True):
            attend = block.attention.step
            x, cache = block(x, lambda y, f=attend, c=cache: f(y, c, state.age))
            caches.append(cache)
        return x, WindowState(tuple(caches), state.age + 1)

    def scan(
        self, x: Float[Tensor, "B T I"], state: WindowState, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], WindowState]:
        x, caches = self.embed(x), []
        for block, cache in zip(self._blocks(), state.layers, strict=True):
            attend = block.attention.scan
            x, cache = block(x, lambda y, f=attend, c=cache: f(y, c, state.age, start))
            caches.append(cache)
        return x, WindowState(tuple(caches), next_age(state.age, start))

    def _blocks(self) -> list[Block]:
        return list(self.blocks)  # type: ignore[arg-type]


@register("transformer_xl")
class TransformerXL(WindowTransformer):
    """`layers` of attention over a sliding window of `memory` steps."""

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        layers: int = 1,
        heads: int = 4,
        memory: int = 64,
        ff_size: int | None = None,
        position: str = "relative",
        norm: str = "pre",
    ) -> None:
        super().__init__(input_size, output_size)
        ff_size = 2 * self.output_size if ff_size is None else positive("ff_size", ff_size)
        self.blocks = nn.ModuleList(
            Block(self.output_size, heads, memory, ff_size, position, norm)
            for _ in range(positive("layers", layers))
        )
