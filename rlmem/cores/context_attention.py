"""Attention over inputs and values recalled from a memory: the memory-as-context form of Titans."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rlmem.cores.attention import Cache, WindowAttention
from rlmem.errors import at_least

Caches = tuple[Cache, Cache]


class ContextAttention(WindowAttention):
    """Windowed attention with three sets of keys in one softmax.

    The keys come from this step and the `memory` steps before it, from the vectors recalled at
    these steps, and from `persistent` learned tokens. A step and its recalled vector have the same
    distance; learned tokens have none.
    """

    def __init__(self, width: int, heads: int, memory: int, persistent: int) -> None:
        super().__init__(width, heads, memory, "relative")
        count = at_least("persistent", persistent, 0)
        self.persistent = nn.Parameter(torch.randn(count, width))

    def empty_caches(self, rows: int, like: Tensor) -> Caches:
        """The empty caches of inputs and of recalled vectors, as before an episode's first step."""
        return self.empty_cache(rows, like), self.empty_cache(rows, like)

    def step_with_context(
        self,
        x: Float[Tensor, "B W"],
        recalled: Float[Tensor, "B W"],
        caches: Caches,
        count: Int[Tensor, "B"],
    ) -> tuple[Float[Tensor, "B W"], Caches]:
        """The output of one step, and the next caches."""
        dtype = caches[0].key.dtype
        query, key, value = self._project(x, dtype)
        _, learned_keys, learned_values = self._project(self.persistent, dtype)
        inputs = self.score(query, key, value, caches[0], count)
        _, key, value = self._project(recalled, dtype)
        context = self.score(query, key, value, caches[1], count)
        content = query + self.content_bias
        learned = torch.einsum("bhd,phd->bhp", content, learned_keys) * self.size**-0.5
        scores = torch.cat([learned, inputs.scores, context.scores], dim=-1)
        learned_values = learned_values.expand(x.shape[0], -1, -1, -1)
        values = torch.cat([learned_values, inputs.values, context.values], dim=1)
        y = torch.einsum("bhm,bmhd->bhd", scores.softmax(-1), values)
        return self.out(y.flatten(1).to(x.dtype)), (inputs.cache, context.cache)
