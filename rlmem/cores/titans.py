"""Titans (Behrouz et al. 2025, arXiv 2501.00663): a neural memory trained at test time.

    memory (LMM): y = InnerMemory(x)                        (section 4.4; `cores/inner_memory.py`)
    layer (MAL):  y = Attention(LMM(x))                                             (section 4.3)
    gate (MAG):   y = LN(Attention(x)) * s(LN(LMM(x)))                              (section 4.2)
    context (MAC): h = M(q(x)),  a = Attention(learned tokens, h, x),  y = LN(a) * s(LN(LMM(a)))
                                                                                    (section 4.1)

The attention has a sliding window, as in `transformer_xl`; in MAC it has two keys per step, x and
the recalled h. For MAC the paper processes segments: it queries the memory left by past segments,
and the memory then learns the attention's output. Here a segment is a chunk of the memory: h is
computed with the weights at the start of the chunk. For MAG the paper normalises the outputs of
both branches and applies a nonlinearity, which it does not name, before it multiplies them. Here it
is a sigmoid on the memory's output, which makes it a gate.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlmem.cores.attention import Cache, WindowAttention
from rlmem.cores.base import MemoryCore, linear_or_identity, register
from rlmem.cores.context_attention import Caches, ContextAttention
from rlmem.cores.inner_memory import InnerMemory
from rlmem.errors import unknown
from rlmem.kernels import Linear
from rlmem.kernels.titans import Learned, Rule

USES = ("memory", "layer", "gate", "context")


class TitansState(NamedTuple):
    """The convolution's last inputs, the inner memory, and the attention's caches (if any)."""

    window: Tensor
    learned: Learned
    cache: Cache | Caches | tuple[()]


@register("titans")
class Titans(MemoryCore[TitansState]):
    """Titans: neural memory trained at test time (Behrouz et al. 2025).

    The inner memory alone (`use` memory), or combined with attention over the last `memory` steps.
    With `use` context `scan` is a loop over `step`: a recalled vector depends on all earlier
    writes and a write depends on the recalled vector, so chunks cannot be computed in parallel.
    """

    forgets_nonfinite = False  # 0 times NaN is NaN

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        use: str = "memory",
        heads: int = 4,
        depth: int = 2,
        expand: int = 2,
        chunk: int = 8,
        conv_size: int = 4,
        limit: float | None = 4.0,
        memory: int = 32,
        persistent: int = 4,
    ) -> None:
        super().__init__(input_size, output_size)
        if use not in USES:
            raise unknown("use", use, USES)
        self.use, width = use, self.output_size
        self.embed = linear_or_identity(self.input_size, width)
        self.inner = InnerMemory(width, width, heads, depth, expand, conv_size, Rule(chunk, limit))
        if use in ("layer", "gate"):
            self.attention = WindowAttention(width, heads, memory, "relative")
        if use == "context":
            self.context = ContextAttention(width, heads, memory, persistent)
            self.ask = Linear(width, self.inner.norm.weight.numel(), bias=False)
        if use in ("gate", "context"):
            self.attention_norm, self.memory_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def initial_state(self, batch_size: int) -> TitansState:
        zeros = self.zeros(0)
        window, learned = self.inner.empty(batch_size, zeros)
        cache: Cache | Caches | tuple[()] = ()
        if self.use == "context":
            cache = self.context.empty_caches(batch_size, zeros)
        elif self.use != "memory":
            cache = self.attention.empty_cache(batch_size, zeros)
        return TitansState(window, learned, cache)

    def update(
        self, x: Float[Tensor, "B I"], state: TitansState
    ) -> tuple[Float[Tensor, "B O"], TitansState]:
        x = self.embed(x)
        cache, count = state.cache, state.learned.age
        if cache and not isinstance(cache, Cache):
            recalled = self.inner.recall(self.ask(x), state.learned)
            x, cache = self.context.step_with_context(x, recalled, cache, count)
        m, window, learned = self.inner.step(x, state.window, state.learned)
        y = x
        if isinstance(cache, Cache):
            y, cache = self.attention.step(m if self.use == "layer" else x, cache, count)
        return self._join(m, y), TitansState(window, learned, cache)

    def scan(
        self, x: Float[Tensor, "B T I"], state: TitansState, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], TitansState]:
        if self.use == "context":
            y, state = super().scan(x, state, start)
            # The window is a view of a larger tensor, which a copy releases.
            return y, state._replace(window=state.window.clone())
        x = self.embed(x)
        m, window, learned = self.inner.scan(x, state.window, state.learned, start)
        y, cache, count = x, state.cache, state.learned.age
        if isinstance(cache, Cache):
            y, cache = self.attention.scan(m if self.use == "layer" else x, cache, count, start)
        return self._join(m, y), TitansState(window, learned, cache)

    def _join(self, m: Tensor, y: Tensor) -> Tensor:
        if self.use in ("memory", "layer"):
            return m if self.use == "memory" else y
        return self.attention_norm(y) * torch.sigmoid(self.memory_norm(m))
