"""The neural memory of Titans and related cores: each head learns a map from keys to values.

    q, k, v = silu(conv(W x)), q and k of length 1;   theta, eta, alpha = s(W x + b) of each head
    y = W_out(norm(M(q)) * silu(W_g x)), after the inner memory M learned k -> v

With a `degree` above 1, polynomial features of q and k (`polynomial.py`) replace them.
`rlmem.kernels.titans` defines the inner memory and its learning rule.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem import tree
from rlmem.cores.base import MemoryCore
from rlmem.cores.conv import ShortConv
from rlmem.cores.heads import HeadNorm, split_heads
from rlmem.cores.polynomial import Monomials
from rlmem.errors import UsageError, at_least, positive
from rlmem.kernels import Linear, titans
from rlmem.kernels.titans import Learned, Rates, Rule, learn, next_anchor, recall, retain


class InnerMemory(nn.Module):
    """A layer with an inner memory that learns at test time, from its projections to its output.

    A state holds weights and anchor (the weights at which gradients are taken) as differences from
    the initial weights, so that zeros are the initial state. Without `momentum` eta is 0.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        heads: int,
        depth: int,
        expand: int,
        conv_size: int,
        rule: Rule,
        momentum: bool = True,
        degree: int = 1,
    ) -> None:
        super().__init__()
        if depth not in (1, 2):
            raise UsageError(f"depth must be 1 (linear) or 2, not {depth}")
        self.rule, self.heads, self.momentum = _checked(rule), positive("heads", heads), momentum
        size = -(-output_size // heads)
        width = heads * size
        self.project = Linear(input_size, 3 * width, bias=False)
        self.conv = ShortConv(3 * width, conv_size)
        # Initial step size 0.1, decay 0.01, momentum 0.1. The tokens of a window together weigh as
        # much as one (gamma), and Huber's loss becomes linear at an error of length 1 (delta).
        biases = {"theta": -2.2, "alpha": -4.6}
        biases |= {"eta": -2.2} if momentum else {}
        biases |= {"gamma": -math.log(rule.window - 1)} if rule.window > 1 else {}
        biases |= {"delta": 0.54} if rule.bias == "huber" else {}
        self.rate_names = tuple(biases)
        self.rates = Linear(input_size, len(biases) * heads)
        with torch.no_grad():
            self.rates.weight.mul_(0.1)
            self.rates.bias.copy_(torch.tensor([*biases.values()]).repeat_interleave(heads))
        inner = positive("expand", expand) * size
        self.monomials = Monomials(size, degree) if positive("degree", degree) > 1 else None
        keys = size if self.monomials is None else self.monomials.size
        shapes = [(keys, size)] if depth == 1 else [(keys, inner), (inner, size)]
        # For kl, log-weights of order 1; otherwise weights that preserve the length of a vector.
        scales = [1.0 if rule.retention == "kl" else 1 / math.sqrt(rows) for rows, _ in shapes]
        self.first = nn.ParameterList(
            nn.Parameter(scale * torch.randn(heads, *shape))
            for scale, shape in zip(scales, shapes, strict=True)
        )
        # The large eps avoids amplified rounding errors if all units have nearly the same output.
        self.norm = HeadNorm(heads, size, eps=1e-2)
        self.gate = Linear(input_size, width, bias=False)
        self.out = Linear(width, output_size, bias=False)

    def empty(self, rows: int, zeros: Tensor) -> tuple[Tensor, Learned]:
        """Window and inner memory before an episode's first step, like `zeros` in dtype, device."""
        window = zeros.new_zeros(rows, self.conv.size - 1, self.conv.channels)
        weight, momentum, anchor = (
            tuple(zeros.new_zeros(rows, *w.shape) for w in self.first) for _ in range(3)
        )
        learned = Learned(weight, momentum, anchor, zeros.new_zeros(rows, dtype=torch.int64))
        if self.rule.window > 1:
            # Keys, values and two rates.
            size = self.first[0].shape[1] + self.first[-1].shape[2] + 2
            recent = zeros.new_zeros(rows, self.rule.window - 1, self.heads, size)
            learned = learned._replace(recent=recent)
        return window, learned

    def step(
        self, x: Float[Tensor, "B I"], window: Tensor, learned: Learned
    ) -> tuple[Float[Tensor, "B O"], Tensor, Learned]:
        """One step: the output, the next window and the next inner memory."""
        qkv, window = self.conv.step(self.project(x), window)
        state, rates = self._shift(learned, 1), self._rates(x, window.dtype)
        m, state = learn(*self._qkv(qkv), rates, state, self.rule)
        return self._output(m, x), window, self._shift(state, -1)

    def scan(
        self, x: Float[Tensor, "B T I"], window: Tensor, learned: Learned, start: Tensor
    ) -> tuple[Float[Tensor, "B T O"], Tensor, Learned]:
        """A row: the outputs, the next window and the next inner memory."""
        qkv, window = self.conv.scan(self.project(x), window, start)
        state, rates, first = self._shift(learned, 1), self._rates(x, window.dtype), self._first()
        m, state = titans(*self._qkv(qkv), rates, first, state, start, self.rule)
        return self._output(m, x), window, self._shift(state, -1)

    def recall(self, query: Float[Tensor, "B W"], learned: Learned) -> Float[Tensor, "B O"]:
        """The memory's output for `query` at the weights with which the next step's chunk opens."""
        state = self._shift(learned, 1)
        weight = tuple(retain(self.rule, each) for each in next_anchor(state, self.rule.chunk))
        heads = self._key(split_heads(F.silu(query).to(weight[0].dtype), self.heads))
        return self.out(self.norm(recall(weight, heads)).to(query.dtype))

    def _first(self) -> tuple[Tensor, ...]:
        return tuple(self.first)

    def _qkv(self, convolved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys of length 1, and values, [*N, H, D]."""
        q, k, v = (split_heads(part, self.heads) for part in F.silu(convolved).chunk(3, dim=-1))
        return self._key(q), self._key(k), v

    def _key(self, x: Tensor) -> Tensor:
        x = F.normalize(x, dim=-1)
        return x if self.monomials is None else self.monomials(x)

    def _rates(self, x: Tensor, dtype: torch.dtype) -> Rates:
        values = self.rates(x).to(dtype).chunk(len(self.rate_names), dim=-1)
        rates = {
            name: F.softplus(value) if name == "delta" else torch.sigmoid(value)
            for name, value in zip(self.rate_names, values, strict=True)
        }
        return Rates(**{"eta": torch.zeros_like(values[0]), **rates})

    def _output(self, m: Tensor, x: Tensor) -> Tensor:
        return self.out(self.norm(m) * F.silu(self.gate(x)))

    def _shift(self, learned: Learned, sign: int) -> Learned:
        """Differences from the initial weights to weights (`sign` 1), and back (-1)."""
        first = self._first()
        return learned._replace(
            weight=tree.map(lambda w, w0: w + sign * w0, learned.weight, first),
            anchor=tree.map(lambda w, w0: w + sign * w0, learned.anchor, first),
        )


class LearningState(NamedTuple):
    """The convolution's last inputs, and the inner memory."""

    window: Tensor
    learned: Learned


class LearningCore(MemoryCore[LearningState]):
    """A core that consists of an inner memory alone."""

    forgets_nonfinite = False  # 0 times NaN is NaN

    def __init__(
        self,
        input_size: int,
        output_size: int | None,
        heads: int,
        depth: int,
        expand: int,
        conv_size: int,
        rule: Rule,
        momentum: bool = True,
        degree: int = 1,
    ) -> None:
        super().__init__(input_size, output_size)
        sizes = self.input_size, self.output_size
        self.inner = InnerMemory(*sizes, heads, depth, expand, conv_size, rule, momentum, degree)

    def initial_state(self, batch_size: int) -> LearningState:
        return LearningState(*self.inner.empty(batch_size, self.zeros(0)))

    def update(
        self, x: Float[Tensor, "B I"], state: LearningState
    ) -> tuple[Float[Tensor, "B O"], LearningState]:
        y, window, learned = self.inner.step(x, *state)
        return y, LearningState(window, learned)

    def scan(
        self, x: Float[Tensor, "B T I"], state: LearningState, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], LearningState]:
        y, window, learned = self.inner.scan(x, *state, start)
        return y, LearningState(window, learned)


def _checked(rule: Rule) -> Rule:
    """`rule`, if its values are valid; else a `UsageError` that names the option."""
    positive("chunk", rule.chunk)
    positive("window", rule.window)
    at_least("muon_steps", rule.orthogonal, 0)
    if rule.limit is not None and rule.limit <= 0:
        raise UsageError(f"limit must be positive or null, not {rule.limit}")
    if rule.power < 1:
        raise UsageError(f"power must be at least 1, not {rule.power}")
    if rule.norm < 2:
        raise UsageError(f"norm must be at least 2, not {rule.norm}")
    return rule
