"""Aaren: softmax attention over the episode so far, computed as a recurrence (Feng et al. 2024,
arXiv 2405.13956).

    c = silu(conv(W_in x)),   k = W_k c,   v = W_v c,   s[t] = q . k[t] with a learned query q
    m[t] = max(m[t-1], s[t])                                                      (section 3.1)
    u[t] = exp(m[t-1] - m[t]) u[t-1] + exp(s[t] - m[t])
    w[t] = exp(m[t-1] - m[t]) w[t-1] + exp(s[t] - m[t]) v[t],   o[t] = w[t] / u[t]
    y = W_out LN(o + c)

Scores depend on the inputs, not on their time; the paper adds position embeddings to its inputs.
Here a short causal convolution mixes each input with the preceding ones instead; `conv_size` 1
turns it off.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.cores.base import MemoryCore, register
from rlmem.cores.conv import ShortConv
from rlmem.cores.heads import split_heads
from rlmem.errors import positive
from rlmem.kernels import Linear, linear_scan
from rlmem.kernels.episodes import ages


class Average(NamedTuple):
    """A running weighted mean `w / u`; weights are divided by `exp(m)` to stay finite.

    `m` and `u` are [B, H], `w` is [B, H, D]. Before the first value `m` is -inf, `u` and `w` are 0.
    """

    m: Tensor
    u: Tensor
    w: Tensor


class AarenState(NamedTuple):
    """The last inputs of the convolution [B, V, W], and the running mean of each head."""

    window: Tensor
    average: Average


def average_step(
    score: Float[Tensor, "B H"], value: Float[Tensor, "B H D"], state: Average
) -> tuple[Float[Tensor, "B H D"], Average]:
    """Add one value: the new mean and the next state."""
    m = torch.maximum(state.m, score)
    keep, add = torch.exp(state.m - m), torch.exp(score - m)
    u = keep * state.u + add
    w = keep[..., None] * state.w + add[..., None] * value
    return w / u[..., None], Average(m, u, w)


def running_max(
    score: Float[Tensor, "B T H"], m: Float[Tensor, "B H"], start: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T+1 H"]:
    """The largest score of the episode so far after each step; entry 0 is `m`, from before the row.

    Doubles the span of every maximum until it covers the row: log T operations (Hillis, Steele).
    """
    best = torch.cat([m[:, None], score], dim=1)
    # Number of steps back to the episode's first step, or to `m`.
    reach = F.pad(ages(torch.ones_like(start[:, 0], dtype=torch.int64), start), (1, 0))
    step = 1
    while step < best.shape[1]:
        earlier = best[:, :-step]
        same_episode = (reach[:, step:] >= step)[..., None]
        longer = torch.where(same_episode, torch.maximum(best[:, step:], earlier), best[:, step:])
        best = torch.cat([best[:, :step], longer], dim=1)
        step *= 2
    return best


def average_scan(
    score: Float[Tensor, "B T H"],
    value: Float[Tensor, "B T H D"],
    state: Average,
    start: Bool[Tensor, "B T"],
) -> tuple[Float[Tensor, "B T H D"], Average]:
    """Add a row of values by linear scans of `u` and `w`; the running maxima keep these finite."""
    best = running_max(score, state.m, start)
    m = best[:, 1:]
    # A start keeps no weight; and the difference of maxima across it could overflow.
    keep = torch.where(start[..., None], 0, best[:, :-1] - m).exp()
    add = torch.exp(score - m)
    sums = torch.cat([add[..., None], add[..., None] * value], dim=-1)
    first = torch.cat([state.u[..., None], state.w], dim=-1)
    gate = keep[..., None].expand_as(sums)
    h = linear_scan(gate.flatten(2), sums.flatten(2), first.flatten(1), start)
    h = h.unflatten(-1, first.shape[1:])
    # Views would keep the memory of the whole row alive.
    final = Average(*(x[:, -1].clone() for x in (m, h[..., 0], h[..., 1:])))
    return h[..., 1:] / h[..., :1], final


@register("aaren")
class Aaren(MemoryCore[AarenState]):
    """Aaren: softmax attention as a recurrence (Feng et al. 2024).

    `heads` learned queries attend to the episode so far, after a short convolution.
    """

    forgets_nonfinite = False  # the maximum of NaN and a number is NaN

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        heads: int = 8,
        conv_size: int = 4,
    ) -> None:
        super().__init__(input_size, output_size)
        self.heads = positive("heads", heads)
        self.size = -(-self.output_size // heads)
        width = heads * self.size
        self.W_in = Linear(self.input_size, width)
        self.conv = ShortConv(width, conv_size)
        self.q = nn.Parameter(torch.randn(heads, self.size) / self.size**0.5)
        self.W_k = Linear(width, width, bias=False)
        self.W_v = Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.W_out = Linear(width, self.output_size)

    def initial_state(self, batch_size: int) -> AarenState:
        window = self.zeros(batch_size, self.conv.size - 1, self.conv.channels)
        none = self.zeros(batch_size, self.heads)
        w = self.zeros(batch_size, self.heads, self.size)
        return AarenState(window, Average(none - torch.inf, none, w))

    def update(
        self, x: Float[Tensor, "B I"], state: AarenState
    ) -> tuple[Float[Tensor, "B O"], AarenState]:
        c, window = self.conv.step(self.W_in(x), state.window)
        c = F.silu(c)
        o, average = average_step(*self._scores(c, window), state.average)
        return self._output(o, c), AarenState(window, average)

    def scan(
        self, x: Float[Tensor, "B T I"], state: AarenState, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], AarenState]:
        c, window = self.conv.scan(self.W_in(x), state.window, start)
        c = F.silu(c)
        o, average = average_scan(*self._scores(c, window), state.average, start)
        return self._output(o, c), AarenState(window, average)

    def _scores(self, c: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [*N, H] and values [*N, H, D], in the dtype of `like`."""
        key, value = (split_heads(W(c).to(like.dtype), self.heads) for W in (self.W_k, self.W_v))
        return (key * self.q).sum(-1), value

    def _output(self, o: Tensor, c: Tensor) -> Tensor:
        return self.W_out(self.norm(o.flatten(-2) + c))
