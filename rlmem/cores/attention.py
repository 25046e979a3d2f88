"""Attention over the last steps of an episode: what Transformer-XL and GTrXL are built of."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlmem.cores.heads import split
from rlmem.errors import positive, unknown
from rlmem.kernels import window_attention
from rlmem.kernels.episodes import next_age

POSITIONS = ("relative", "rope", "none")


class Cache(NamedTuple):
    """Keys and values of the last M steps, [B, M, H, D] each, in a ring: step p of an episode is
    in slot p modulo M. What no step of the episode has filled is zero.
    """

    key: Tensor
    value: Tensor


def sinusoids(distance: Int[Tensor, "P"], width: int) -> Float[Tensor, "P width"]:
    """Transformer-XL's embedding of distances, float64: all sines, then all cosines."""
    place = torch.arange(0, width, 2, device=distance.device, dtype=torch.float64)
    angle = distance[:, None] * torch.exp(place * (-math.log(10_000.0) / width))
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :width]


def rotate(x: Float[Tensor, "*N H D"], position: Tensor) -> Float[Tensor, "*N H D"]:
    """RoPE (Su et al. 2021, arXiv 2104.09864): pairs of entries turned by the position [*N]."""
    half = x.shape[-1] // 2
    place = torch.arange(half, device=x.device, dtype=x.dtype)
    speed = torch.exp(place * (-math.log(10_000.0) / half))
    angle = (position[..., None] * speed)[..., None, :]
    cos, sin = angle.cos(), angle.sin()
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class WindowAttention(nn.Module):
    """Heads that look at this step and the `memory` steps before it, in the same episode.

    `position` is how they know how long ago: `relative` (Transformer-XL, arXiv 1901.02860, section
    3.3), `rope`, or `none`. `count` [B] is the number of steps of the episode that are past.
    Keys and values are kept, not the layer's inputs as in the paper: it is the same as long as
    the weights stay the same, and a step costs no projection of the whole memory.
    """

    _embedded: Tensor  # the distances 0..M

    def __init__(self, width: int, heads: int, memory: int, position: str) -> None:
        super().__init__()
        if position not in POSITIONS:
            raise unknown("position", position, POSITIONS)
        self.heads, self.position = positive("heads", heads), position
        # As many units as cover the width, and an even number, which can be turned in pairs.
        self.size = 2 * -(-width // (2 * heads))
        self.memory = positive("memory", memory)
        self.qkv = nn.Linear(width, 3 * heads * self.size, bias=False)
        self.out = nn.Linear(heads * self.size, width, bias=False)
        if position == "relative":
            self.relative = nn.Linear(width, heads * self.size, bias=False)
            embedded = sinusoids(torch.arange(self.memory + 1), width)
            self.register_buffer("_embedded", embedded, persistent=False)
            # The paper's u and v: how much a key, and a distance, count whatever is asked.
            self.content_bias = nn.Parameter(torch.zeros(heads, self.size))
            self.position_bias = nn.Parameter(torch.zeros(heads, self.size))

    def empty(self, rows: int, like: Tensor) -> Cache:
        """The memory before an episode's first step."""
        shape = (rows, self.memory, self.heads, self.size)
        return Cache(like.new_zeros(shape), like.new_zeros(shape))

    def step(
        self, x: Float[Tensor, "B W"], cache: Cache, count: Int[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B W"], Cache]:
        """One step and the next memory."""
        scores, values, held = self.look(*self._project(x, cache.key.dtype), cache, count)
        y = torch.einsum("bhm,bmhd->bhd", scores.softmax(-1), values)
        return self.out(y.flatten(1).to(x.dtype)), held

    def look(
        self, query: Tensor, key: Tensor, value: Tensor, cache: Cache, count: Tensor
    ) -> tuple[Tensor, Tensor, Cache]:
        """Scores [B, H, M+1] and values [B, M+1, H, D] of this step, whose key and value are
        given, and of those in the memory; and the next memory."""
        slots = torch.arange(self.memory, device=query.device)
        ago = (count[:, None] - 1 - slots) % self.memory + 1
        # The step itself is the first of its keys, at distance 0.
        keys = torch.cat([key[:, None], cache.key], dim=1)
        values = torch.cat([value[:, None], cache.value], dim=1)
        ago = torch.cat([torch.zeros_like(ago[:, :1]), ago], dim=1)
        scores = self._scores(query, keys, ago) * self.size**-0.5
        scores = scores.masked_fill((ago > count[:, None])[:, None], -torch.inf)
        here = (slots == (count % self.memory)[:, None])[..., None, None]
        held = Cache(
            torch.where(here, key[:, None], cache.key),
            torch.where(here, value[:, None], cache.value),
        )
        return scores, values, held

    def scan(
        self,
        x: Float[Tensor, "B T W"],
        cache: Cache,
        count: Int[Tensor, "B"],
        start: Bool[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B T W"], Cache]:
        """A row and the memory after it."""
        query, key, value = self._project(x, cache.key.dtype)
        slots = torch.arange(self.memory, device=x.device)
        oldest_first = (count[:, None] + slots) % self.memory
        alive = count[:, None] + slots >= self.memory
        keys = torch.cat([_take(cache.key, oldest_first), key], dim=1)
        values = torch.cat([_take(cache.value, oldest_first), value], dim=1)
        y = window_attention(*self._asked(query, keys), values, alive, start, *self._places(query))
        return self.out(y.flatten(2).to(x.dtype)), self._keep(keys, values, count, start)

    def _project(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value [*N, H, D]."""
        query, key, value = self.qkv(x).to(dtype).chunk(3, dim=-1)
        return split(query, self.heads), split(key, self.heads), split(value, self.heads)

    def _distances(self, like: Tensor) -> Tensor:
        """The projected embeddings of the distances 0..M, [M+1, H, D]."""
        embedded = self._embedded.to(self.relative.weight.dtype)
        return split(self.relative(embedded).to(like.dtype), self.heads)

    def _scores(self, query: Tensor, keys: Tensor, ago: Tensor) -> Tensor:
        """[B, H, M+1], by the distances `ago` [B, M+1] of the keys."""
        if self.position == "rope":
            keys = rotate(keys, -ago)
        if self.position != "relative":
            return torch.einsum("bhd,bmhd->bhm", query, keys)
        content = torch.einsum("bhd,bmhd->bhm", query + self.content_bias, keys)
        asked = query + self.position_bias
        by_distance = torch.einsum("bhd,phd->bhp", asked, self._distances(query))
        return content + by_distance.gather(2, ago[:, None].expand(-1, self.heads, -1))

    def _asked(self, query: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Query and keys of a row as the scores take them."""
        if self.position == "relative":
            return query + self.content_bias, keys
        if self.position == "none":
            return query, keys
        place = torch.arange(keys.shape[1], device=keys.device)
        return rotate(query, place[self.memory :]), rotate(keys, place)

    def _places(self, query: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if self.position != "relative":
            return None, None
        return query + self.position_bias, self._distances(query)

    def _keep(self, keys: Tensor, values: Tensor, count: Tensor, start: Tensor) -> Cache:
        """The last steps of memory and row, each in its slot."""
        slots = torch.arange(self.memory, device=keys.device)
        count = next_age(count, start)[:, None]
        ago = (count - 1 - slots) % self.memory
        # A slot that was not filled yet keeps what it held, unless the row starts anew.
        kept = ((ago < count) | ~start.any(1, keepdim=True))[..., None, None]
        index = keys.shape[1] - 1 - ago
        return Cache(*(torch.where(kept, _take(each, index), 0) for each in (keys, values)))


def _take(x: Float[Tensor, "B N H D"], index: Int[Tensor, "B M"]) -> Float[Tensor, "B M H D"]:
    """Positions of each row."""
    return x.gather(1, index[..., None, None].expand(-1, -1, *x.shape[2:]))
