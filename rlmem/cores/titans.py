"""Titans (Behrouz et al. 2025, arXiv 2501.00663): a memory that learns while it is used.

    q, k, v = silu(conv(W x)), q and k of length 1;   theta, eta, alpha = s(W x + b) of each head
    m = M(q), after the inner memory M learned k -> v                       (`rlmem.kernels.titans`)
    memory (LMM): y = W_out(norm(m) * silu(W_g x))                                  (section 4.4)
    layer (MAL):  y = Attention(LMM(x))                                             (section 4.3)
    gate (MAG):   y = LN(Attention(x)) * s(LN(LMM(x)))                              (section 4.2)

The attention is a window that slides, as in `transformer_xl`. The paper says that outputs of the
two branches of MAG are normalised and go through a nonlinearity before they are multiplied, and not
which: here it is a sigmoid for the memory's, which makes it a gate.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem import tree
from rlmem.cores.attention import Cache, WindowAttention
from rlmem.cores.base import MemoryCore, register
from rlmem.cores.conv import ShortConv
from rlmem.cores.heads import HeadNorm, split
from rlmem.errors import UsageError, positive, unknown
from rlmem.kernels import titans
from rlmem.kernels.titans import Learned, Rates, learn

USES = ("memory", "layer", "gate")


class TitansState(NamedTuple):
    """What the convolution saw last, the inner memory, and that of the attention (or nothing).

    Weights and anchor of the inner memory are held as what they differ from those at an episode's
    beginning, so that a state of zeros is the initial one.
    """

    window: Tensor
    learned: Learned
    cache: Cache | tuple[()]


class InnerMemory(nn.Module):
    """The neural memory: heads that each learn a map from keys to values at test time."""

    def __init__(
        self,
        input_size: int,
        output_size: int,
        heads: int,
        depth: int,
        expand: int,
        chunk: int,
        conv_size: int,
        limit: float | None,
    ) -> None:
        super().__init__()
        if depth not in (1, 2):
            raise UsageError(f"depth must be 1 (linear) or 2, not {depth}")
        if limit is not None and limit <= 0:
            raise UsageError(f"limit must be positive or null, not {limit}")
        self.heads, self.chunk, self.limit = (
            positive("heads", heads),
            positive("chunk", chunk),
            limit,
        )
        size = -(-output_size // heads)
        width = heads * size
        self.project = nn.Linear(input_size, 3 * width, bias=False)
        self.conv = ShortConv(3 * width, conv_size)
        self.rates = nn.Linear(input_size, 3 * heads)
        with torch.no_grad():
            self.rates.weight.mul_(0.1)
            # First step size, momentum and forgetting: 0.1, 0.1 and 0.01.
            self.rates.bias.copy_(torch.tensor([-2.2, -2.2, -4.6]).repeat_interleave(heads))
        inner = positive("expand", expand) * size
        shapes = [(size, size)] if depth == 1 else [(size, inner), (inner, size)]
        self.first = nn.ParameterList(
            nn.Parameter(torch.randn(heads, *shape) / math.sqrt(shape[0])) for shape in shapes
        )
        self.norm = HeadNorm(heads, size)
        self.gate = nn.Linear(input_size, width, bias=False)
        self.out = nn.Linear(width, output_size, bias=False)

    def empty(self, rows: int, zeros: Tensor) -> tuple[Tensor, Learned]:
        """The window and the inner memory before an episode's first step; `zeros` is like them."""
        window = zeros.new_zeros(rows, self.conv.size - 1, self.conv.channels)
        weight, momentum, anchor = (
            tuple(zeros.new_zeros(rows, *w.shape) for w in self.first) for _ in range(3)
        )
        age = zeros.new_zeros(rows, dtype=torch.int64)
        return window, Learned(weight, momentum, anchor, age)

    def step(
        self, x: Float[Tensor, "B I"], window: Tensor, learned: Learned
    ) -> tuple[Float[Tensor, "B O"], Tensor, Learned]:
        """One step: the answer, the next window and memory."""
        seen, window = self.conv.step(self.project(x), window)
        state, rates = self._shift(learned, 1), self._rates(x, window.dtype)
        m, state = learn(*self._qkv(seen), rates, state, self.chunk, self.limit)
        return self._answer(m, x), window, self._shift(state, -1)

    def scan(
        self, x: Float[Tensor, "B T I"], window: Tensor, learned: Learned, start: Tensor
    ) -> tuple[Float[Tensor, "B T O"], Tensor, Learned]:
        """A row: the answers, the next window and memory."""
        seen, window = self.conv.scan(self.project(x), window, start)
        state, rates, first = self._shift(learned, 1), self._rates(x, window.dtype), self._first()
        q, k, v = self._qkv(seen)
        m, state = titans(q, k, v, rates, first, state, start, self.chunk, self.limit)
        return self._answer(m, x), window, self._shift(state, -1)

    def _first(self) -> tuple[Tensor, ...]:
        return tuple(self.first)

    def _qkv(self, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (split(part, self.heads) for part in F.silu(seen).chunk(3, dim=-1))
        return F.normalize(q, dim=-1), F.normalize(k, dim=-1), v

    def _rates(self, x: Tensor, dtype: torch.dtype) -> Rates:
        return Rates(*torch.sigmoid(self.rates(x).to(dtype)).chunk(3, dim=-1))

    def _answer(self, m: Tensor, x: Tensor) -> Tensor:
        return self.out(self.norm(m) * F.silu(self.gate(x)))

    def _shift(self, learned: Learned, sign: int) -> Learned:
        """From differences to weights (1), and back (-1)."""
        first = self._first()
        return learned._replace(
            weight=tree.map(lambda w, w0: w + sign * w0, learned.weight, first),
            anchor=tree.map(lambda w, w0: w + sign * w0, learned.anchor, first),
        )


@register("titans")
class Titans(MemoryCore[TitansState]):
    """The inner memory alone, or beside or under attention over the last `memory` steps."""

    forgets_nonfinite = False  # a weight of 0 times a NaN is a NaN

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
    ) -> None:
        super().__init__(input_size, output_size)
        if use not in USES:
            raise unknown("use", use, USES)
        self.use, width = use, self.output_size
        self.embed = (
            nn.Identity() if self.input_size == width else nn.Linear(self.input_size, width)
        )
        self.inner = InnerMemory(width, width, heads, depth, expand, chunk, conv_size, limit)
        if use != "memory":
            self.attention = WindowAttention(width, heads, memory, "relative")
        if use == "gate":
            self.attention_norm, self.memory_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def initial_state(self, batch_size: int) -> TitansState:
        zeros = self.zeros(0)
        window, learned = self.inner.empty(batch_size, zeros)
        cache = () if self.use == "memory" else self.attention.empty(batch_size, zeros)
        return TitansState(window, learned, cache)

    def update(
        self, x: Float[Tensor, "B I"], state: TitansState
    ) -> tuple[Float[Tensor, "B O"], TitansState]:
        x = self.embed(x)
        m, window, learned = self.inner.step(x, state.window, state.learned)
        if not isinstance(state.cache, Cache):
            return m, TitansState(window, learned, ())
        looked = m if self.use == "layer" else x
        y, cache = self.attention.step(looked, state.cache, state.learned.age)
        return self._join(m, y), TitansState(window, learned, cache)

    def scan(
        self, x: Float[Tensor, "B T I"], state: TitansState, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], TitansState]:
        x = self.embed(x)
        m, window, learned = self.inner.scan(x, state.window, state.learned, start)
        if not isinstance(state.cache, Cache):
            return m, TitansState(window, learned, ())
        looked = m if self.use == "layer" else x
        y, cache = self.attention.scan(looked, state.cache, state.learned.age, start)
        return self._join(m, y), TitansState(window, learned, cache)

    def _join(self, m: Tensor, y: Tensor) -> Tensor:
        if self.use == "layer":
            return y
        return self.attention_norm(y) * torch.sigmoid(self.memory_norm(m))
