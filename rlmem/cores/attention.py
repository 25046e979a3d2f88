"""Sliding-window attention within an episode, the layer of Transformer-XL and GTrXL."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlmem.cores.heads import split_heads
from rlmem.errors import positive, unknown
from rlmem.kernels import Linear, window_attention
from rlmem.kernels.episodes import next_age

POSITIONS = ("relative", "absolute", "rope", "none")


class Cache(NamedTuple):
    """A ring buffer of the keys and values of the last M steps, [B, M, H, D] each.

    Step p of an episode is in slot p modulo M. Unfilled slots are zero.
    """

    key: Tensor
    value: Tensor


class Scores(NamedTuple):
    """Attention of one step: `scores` [B, H, M+1], `values` [B, M+1, H, D] and the next `cache`."""

    scores: Tensor
    values: Tensor
    cache: Cache


def sinusoids(time: Int[Tensor, "*N"], width: int) -> Float[Tensor, "*N width"]:
    """The sinusoidal embedding of times or distances, float64: all sines, then all cosines.

    Vaswani et al. 2017 (arXiv 1706.03762, section 3.5), in the order of Transformer-XL.
    """
    place = torch.arange(0, width, 2, device=time.device, dtype=torch.float64)
    angle = time[..., None] * torch.exp(place * (-math.log(10_000.0) / width))
    return torch.cat([angle.sin(), angle.cos()], dim=-1)[..., :width]


def rotate(x: Float[Tensor, "*N H D"], position: Tensor) -> Float[Tensor, "*N H D"]:
    """RoPE (Su et al. 2021, arXiv 2104.09864): rotates pairs of entries by the `position` [*N]."""
    half = x.shape[-1] // 2
    place = torch.arange(half, device=x.device, dtype=x.dtype)
    speed = torch.exp(place * (-math.log(10_000.0) / half))
    angle = (position[..., None] * speed)[..., None, :]
    cos, sin = angle.cos(), angle.sin()
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class WindowAttention(nn.Module):
    """Multi-head attention over this step and the `memory` steps before it in the same episode.

    `position` is the position encoding: `relative` (Transformer-XL, arXiv 1901.02860, section 3.3),
    `rope` or `none`; `absolute` is `none` here, since times are added to the inputs. `count` [B] is
    the number of past steps of the episode. The cache holds keys and values, not the layer's inputs
    as in the paper: the results are equal as long as the weights do not change, and a step need not
    project the whole memory.
    """

    _embedded: Tensor  # sinusoids of the distances 0..M

    def __init__(self, width: int, heads: int, memory: int, position: str) -> None:
        super().__init__()
        if position not in POSITIONS:
            raise unknown("position", position, POSITIONS)
        self.heads, self.position = positive("heads", heads), position
        # Heads together cover the width; an even size, since RoPE rotates pairs.
        self.size = 2 * -(-width // (2 * heads))
        self.memory = positive("memory", memory)
        self.qkv = Linear(width, 3 * heads * self.size, bias=False)
        self.out = Linear(heads * self.size, width, bias=False)
        if position == "relative":
            self.relative = Linear(width, heads * self.size, bias=False)
            # The result first: a memory that does not fit is refused before any of it is written.
            embedded = torch.empty(self.memory + 1, width, dtype=torch.float64)
            embedded.copy_(sinusoids(torch.arange(self.memory + 1), width))
            self.register_buffer("_embedded", embedded, persistent=False)
            # The paper's u and v: scores of keys and distances that do not depend on the query.
            self.content_bias = nn.Parameter(torch.zeros(heads, self.size))
            self.position_bias = nn.Parameter(torch.zeros(heads, self.size))

    def empty_cache(self, rows: int, like: Tensor) -> Cache:
        """The cache before an episode's first step, in the dtype and on the device of `like`."""
        shape = (rows, self.memory, self.heads, self.size)
        return Cache(like.new_zeros(shape), like.new_zeros(shape))

    def step(
        self, x: Float[Tensor, "B W"], cache: Cache, count: Int[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B W"], Cache]:
        """The output of one step, and the next cache."""
        query, key, value = self._project(x, cache.key.dtype)
        scores, values, cache = self.score(query, key, value, cache, count)
        y = torch.einsum("bhm,bmhd->bhd", scores.softmax(-1), values)
        return self.out(y.flatten(1).to(x.dtype)), cache

    def score(
        self, query: Tensor, key: Tensor, value: Tensor, cache: Cache, count: Tensor
    ) -> Scores:
        """Scores and values of one step over itself and the cached steps, and the next cache."""
        slots = torch.arange(self.memory, device=query.device)
        ago = (count[:, None] - 1 - slots) % self.memory + 1
        # The first key is that of the step itself, at distance 0.
        keys = torch.cat([key[:, None], cache.key], dim=1)
        values = torch.cat([value[:, None], cache.value], dim=1)
        ago = torch.cat([torch.zeros_like(ago[:, :1]), ago], dim=1)
        scores = self._scores(query, keys, ago) * self.size**-0.5
        scores = scores.masked_fill((ago > count[:, None])[:, None], -torch.inf)
        written = (slots == (count % self.memory)[:, None])[..., None, None]
        cache = Cache(
            torch.where(written, key[:, None], cache.key),
            torch.where(written, value[:, None], cache.value),
        )
        return Scores(scores, values, cache)

    def scan(
        self,
        x: Float[Tensor, "B T W"],
        cache: Cache,
        count: Int[Tensor, "B"],
        start: Bool[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B T W"], Cache]:
        """The outputs of a row, and the cache after it."""
        query, key, value = self._project(x, cache.key.dtype)
        keys, values = self.with_past(cache, (key, value), count)
        y = self.attend(query, keys, values, count, start)
        return self.out(y.flatten(2).to(x.dtype)), self.next_cache((keys, values), count, start)

    def with_past(
        self, rings: tuple[Tensor, ...], row: tuple[Tensor, ...], count: Int[Tensor, "B"]
    ) -> list[Tensor]:
        """The cached steps, oldest first, and those of the row: [B, M+T, ...] each."""
        oldest_first = (count[:, None] + torch.arange(self.memory, device=count.device)) % (
            self.memory
        )
        each = zip(rings, row, strict=True)
        return [torch.cat([take(ring, oldest_first), here], dim=1) for ring, here in each]

    def next_cache(
        self, steps: tuple[Tensor, Tensor], count: Int[Tensor, "B"], start: Bool[Tensor, "B T"]
    ) -> Cache:
        """The cache after a row; keys and values begin with the cached steps."""
        return Cache(*(next_ring(each, self.memory, count, start) for each in steps))

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, count: Tensor, start: Tensor
    ) -> Float[Tensor, "B T H D"]:
        """The heads' outputs of a row; `keys` and `values` begin with the cached steps."""
        slots = torch.arange(self.memory, device=query.device)
        filled = count[:, None] + slots >= self.memory
        content = self._content(query, keys)
        return window_attention(*content, values, filled, start, *self._position(query))

    def _project(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value [*N, H, D]."""
        query, key, value = (
            split_heads(part, self.heads) for part in self.qkv(x).to(dtype).chunk(3, dim=-1)
        )
        return query, key, value

    def _distances(self, like: Tensor) -> Tensor:
        """Projected embeddings of the distances 0..M, [M+1, H, D]."""
        embedded = self._embedded.to(self.relative.weight.dtype)
        return split_heads(self.relative(embedded).to(like.dtype), self.heads)

    def _scores(self, query: Tensor, keys: Tensor, ago: Tensor) -> Tensor:
        """Unscaled scores [B, H, M+1] of `keys` at the distances `ago` [B, M+1]."""
        if self.position == "rope":
            keys = rotate(keys, -ago)
        if self.position != "relative":
            return torch.einsum("bhd,bmhd->bhm", query, keys)
        content = torch.einsum("bhd,bmhd->bhm", query + self.content_bias, keys)
        position, distances = query + self.position_bias, self._distances(query)
        by_distance = torch.einsum("bhd,phd->bhp", position, distances)
        return content + by_distance.gather(2, ago[:, None].expand(-1, self.heads, -1))

    def _content(self, query: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys of a row, with the encoding of `position`."""
        if self.position == "relative":
            return query + self.content_bias, keys
        if self.position != "rope":
            return query, keys
        place = torch.arange(keys.shape[1], device=keys.device)
        return rotate(query, place[self.memory :]), rotate(keys, place)

    def _position(self, query: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Queries and keys of the distance scores, if `position` is relative."""
        if self.position != "relative":
            return None, None
        return query + self.position_bias, self._distances(query)


def next_ring(
    steps: Float[Tensor, "B N H D"],
    memory: int,
    count: Int[Tensor, "B"],
    start: Bool[Tensor, "B T"],
) -> Float[Tensor, "B M H D"]:
    """The last `memory` steps of cache and row, each in its slot."""
    slots = torch.arange(memory, device=steps.device)
    count = next_age(count, start)[:, None]
    ago = (count - 1 - slots) % memory
    # Without a start in the row, unfilled slots keep their old entries.
    kept = ((ago < count) | ~start.any(1, keepdim=True))[..., None, None]
    return torch.where(kept, take(steps, steps.shape[1] - 1 - ago), 0)


def take(x: Float[Tensor, "B N H D"], index: Int[Tensor, "B *M"]) -> Float[Tensor, "B *M H D"]:
    """Entries of each row at the positions `index`."""
    flat = index.flatten(1)[..., None, None].expand(-1, -1, *x.shape[2:])
    return x.gather(1, flat).unflatten(1, index.shape[1:])
