"""Transformer-XL (Dai et al. 2019, arXiv 1901.02860) with a sliding window.

In each layer a step attends to itself and the `memory` steps before it, within its episode:

    h = x + Attention(LN(x)),   y = h + W_2 relu(W_1 LN(h))            (norm: pre)
    h = LN(x + Attention(x)),   y = LN(h + W_2 relu(W_1 h))            (norm: post, the paper's)

The paper moves its window by whole segments, so that the context length of a step depends on its
position in the segment. An agent that acts step by step has no segments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlmem.cores.attention import WindowAttention, sinusoids
from rlmem.cores.base import MemoryCore, linear_or_identity, register
from rlmem.errors import positive, unknown
from rlmem.kernels import Linear
from rlmem.kernels.episodes import ages, next_age

NORMS = ("pre", "post")


class WindowState(NamedTuple):
    """The caches of all layers, and the number of past steps of the episode, [B] int64."""

    layers: tuple[Any, ...]
    age: Tensor


class Block(nn.Module):
    """One layer: attention and a feedforward network, each with a layer norm and a residual path.

    Subclasses override how the output of a sublayer is combined with its input.
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
        self.ff = nn.Sequential(Linear(width, ff_size), nn.ReLU(), Linear(ff_size, width))
        self.ff_norm = nn.LayerNorm(width)

    def forward(
        self, x: Tensor, attend: Callable[[Tensor], tuple[Tensor, Any]]
    ) -> tuple[Tensor, Any]:
        """The layer's output and next cache; `attend` is the attention's step or scan."""
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
    """`layers` blocks of width `output_size`, made by `block(width, ff_size)`.

    A linear map comes first if `input_size` differs from `output_size`. `ff_size` is the width of
    the feedforward networks; None means twice the output size. If the position encoding of the
    blocks is `absolute`, sinusoids of the time since the start of the episode are added to the
    first block's input (Vaswani et al. 2017): heads can then find the step of a certain time.
    """

    forgets_nonfinite = False  # attention weight 0 times NaN is NaN

    def __init__(
        self,
        input_size: int,
        output_size: int | None,
        layers: int,
        ff_size: int | None,
        block: Callable[[int, int], Block],
    ) -> None:
        super().__init__(input_size, output_size)
        width = self.output_size
        self.embed = linear_or_identity(self.input_size, width)
        hidden = 2 * width if ff_size is None else positive("ff_size", ff_size)
        self.blocks = nn.ModuleList(block(width, hidden) for _ in range(positive("layers", layers)))
        self.absolute = self._blocks()[0].attention.position == "absolute"

    def initial_state(self, batch_size: int) -> WindowState:
        like = self.zeros(0)
        caches = (block.attention.empty_cache(batch_size, like) for block in self._blocks())
        return WindowState(tuple(caches), self.zeros(batch_size, dtype=torch.int64))

    def update(
        self, x: Float[Tensor, "B I"], state: WindowState
    ) -> tuple[Float[Tensor, "B O"], WindowState]:
        x, caches = self._embed(x, state.age), []
        for block, cache in zip(self._blocks(), state.layers, strict=True):
            attend = block.attention.step
            x, cache = block(x, lambda y, f=attend, c=cache: f(y, c, state.age))
            caches.append(cache)
        return x, WindowState(tuple(caches), state.age + 1)

    def scan(
        self, x: Float[Tensor, "B T I"], state: WindowState, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], WindowState]:
        x, caches = self._embed(x, ages(state.age, start) if self.absolute else state.age), []
        for block, cache in zip(self._blocks(), state.layers, strict=True):
            attend = block.attention.scan
            x, cache = block(x, lambda y, f=attend, c=cache: f(y, c, state.age, start))
            caches.append(cache)
        return x, WindowState(tuple(caches), next_age(state.age, start))

    def _embed(self, x: Tensor, time: Tensor) -> Tensor:
        """The input of the first block; `time` has the shape of the steps."""
        x = self.embed(x)
        return x + sinusoids(time, x.shape[-1]).to(x.dtype) if self.absolute else x

    def _blocks(self) -> list[Block]:
        return list(self.blocks)  # type: ignore[arg-type]


@register("transformer_xl")
class TransformerXL(WindowTransformer):
    """Transformer-XL: attention over a sliding window with relative positions (Dai et al. 2019).

    `layers` layers attend to a window of `memory` steps.
    """

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
        def block(width: int, ff_size: int) -> Block:
            return Block(width, heads, memory, ff_size, position, norm)

        super().__init__(input_size, output_size, layers, ff_size, block)
