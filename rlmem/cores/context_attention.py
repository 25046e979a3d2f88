"""Attention over what is seen and what a memory has to say of it: Titans' memory as context."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rlmem.cores.attention import Cache, WindowAttention
from rlmem.errors import at_least

Caches = tuple[Cache, Cache]


class ContextAttention(WindowAttention):
    """Heads that look at this step and the `memory` steps before it, at what was recalled at each
    of them, and at `persistent` learned tokens, all in one softmax.

    A step and what was recalled at it are at the same distance; learned tokens are at none.
    """

    def __init__(self, width: int, heads: int, memory: int, persistent: int) -> None:
        super().__init__(width, heads, memory, "relative")
        count = at_least("persistent", persistent, 0)
        self.persistent = nn.Parameter(torch.randn(count, width))

    def empties(self, rows: int, like: Tensor) -> Caches:
        """The memories of steps and of what was recalled, before an episode's first step."""
        return self.empty(rows, like), self.empty(rows, like)

    def step_with(
        self,
        x: Float[Tensor, "B W"],
        recalled: Float[Tensor, "B W"],
        caches: Caches,
        count: Int[Tensor, "B"],
    ) -> tuple[Float[Tensor, "B W"], Caches]:
        """One step and the next memories."""
        dtype = caches[0].key.dtype
        query, *_ = own = self._project(x, dtype)
        _, keys, values = self._project(self.persistent, dtype)
        seen = self.look(*own, caches[0], count)
        known = self.look(query, *self._project(recalled, dtype)[1:], caches[1], count)
        always = torch.einsum("bhd,phd->bhp", query + self.content_bias, keys) * self.size**-0.5
        scores = torch.cat([always, seen[0], known[0]], dim=-1)
        values = torch.cat([values.expand(len(x), -1, -1, -1), seen[1], known[1]], dim=1)
        y = torch.einsum("bhm,bmhd->bhd", scores.softmax(-1), values)
        return self.out(y.flatten(1).to(x.dtype)), (seen[2], known[2])
