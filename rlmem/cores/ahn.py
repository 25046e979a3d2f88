"""Artificial hippocampus network (Fang et al. 2025, arXiv 2510.07318): a window and a memory.

A layer of Transformer-XL attends to this step and the M steps before it. The step that leaves the
window, p, is written to a matrix memory by the gated delta rule, per head:

    S' = alpha_p (I - beta_p k_p k_p^T) S + beta_p k_p v_p^T       k_p scaled to length 1
    alpha_p = s(W_a x_p + b_a),   beta_p = s(W_b x_p + b_b)
    y = W_out attention + W_S (s(W_g x) rms(S^T q))                q scaled to length 1

Queries, keys and values are those of the attention, as in the paper. So the memory holds all steps
before the window and no others, and within its first M + 1 steps an episode has no memory. The
paper adds S to a trained model; here all is trained together, the reading is normalised, and the
gates of a step wait beside its key until it leaves the window.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from rlmem.cores.attention import Cache, WindowAttention, next_ring
from rlmem.cores.base import register
from rlmem.cores.delta import unit, write
from rlmem.cores.transformer_xl import Block, WindowTransformer
from rlmem.kernels import Linear, delta_rule
from rlmem.kernels.episodes import ages


class HippocampusState(NamedTuple):
    """`key` and `value` as in `Cache`, `gates` [B, M, H, 2] beside them, and `S` [B, H, D, D].

    The last dimension of `gates` holds beta and the logarithm of alpha.
    """

    key: Tensor
    value: Tensor
    gates: Tensor
    S: Tensor


def after_leaving(
    S: Float[Tensor, "B H D D"], key: Tensor, value: Tensor, gates: Tensor, leaves: Tensor
) -> Float[Tensor, "B H D D"]:
    """The memory after the step that leaves the window; `leaves` [B] tells whether one does."""
    beta, log_alpha = gates.unbind(-1)
    kept = log_alpha.exp()[..., None, None] * S
    return torch.where(leaves[:, None, None, None], write(kept, unit(key), value, beta), S)


def _one_later(x: Float[Tensor, "B N H D"], time: int) -> Float[Tensor, "B T H D"]:
    """The first `time` steps, each one step later, after zeros."""
    return F.pad(x[:, : time - 1], (0, 0, 0, 0, 1, 0))


class Hippocampus(WindowAttention):
    """Attention over a window, and a matrix memory of the steps that have left it."""

    def __init__(self, width: int, heads: int, memory: int, position: str) -> None:
        super().__init__(width, heads, memory, position)
        self.W_gates = Linear(width, 3 * heads)
        with torch.no_grad():
            # alpha is near 0.98 at first: the memory forgets in some tens of steps.
            self.W_gates.bias.copy_(torch.tensor([0.0, 4.0, 0.0]).repeat_interleave(heads))
        self.W_S = Linear(heads * self.size, width, bias=False)

    def empty_cache(self, rows: int, like: Tensor) -> HippocampusState:  # type: ignore[override]
        shape = (rows, self.memory, self.heads)
        window = super().empty_cache(rows, like)
        S = like.new_zeros(rows, self.heads, self.size, self.size)
        return HippocampusState(*window, like.new_zeros(*shape, 2), S)

    def step(  # type: ignore[override]
        self, x: Float[Tensor, "B W"], cache: HippocampusState, count: Int[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B W"], HippocampusState]:
        """The output of one step, and the next cache."""
        query, key, value = self._project(x, cache.key.dtype)
        gates, share = self._gates(x, cache.key.dtype)
        scores, values, window = self.score(query, key, value, Cache(*cache[:2]), count)
        y = torch.einsum("bhm,bmhd->bhd", scores.softmax(-1), values)
        reading = (cache.S * unit(query)[..., None]).sum(-2)
        slot = (torch.arange(self.memory, device=x.device) == (count % self.memory)[:, None])[
            ..., None, None
        ]
        # The slot of this step holds the one that leaves the window.
        key, value, left = (torch.where(slot, each, 0).sum(1) for each in cache[:3])
        S = after_leaving(cache.S, key, value, left, count >= self.memory)
        after = torch.where(slot, gates[:, None], cache.gates)
        return self._mixed(y, reading, share, x), HippocampusState(*window, after, S)

    def scan(  # type: ignore[override]
        self,
        x: Float[Tensor, "B T W"],
        cache: HippocampusState,
        count: Int[Tensor, "B"],
        start: Bool[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B T W"], HippocampusState]:
        """The outputs of a row, and the cache after it."""
        query, key, value = self._project(x, cache.key.dtype)
        gates, share = self._gates(x, cache.key.dtype)
        keys, values, rates = self.with_past(cache[:3], (key, value, gates), count)
        y = self.attend(query, keys, values, count, start)
        # Step t of these leaves the window after the row's step t, if that is in its episode. The
        # kernel writes before it reads, so it gets each write a step later, and the last is left.
        time, age = x.shape[1], ages(count, start)
        key, value, left = (_one_later(each, time) for each in (keys, values, rates))
        left = torch.where((age > self.memory)[..., None, None], left, 0)
        reading, S = delta_rule(
            unit(query), unit(key), value, left[..., 0], left[..., 1], cache.S, start
        )
        key, value, left = (each[:, time - 1] for each in (keys, values, rates))
        S = after_leaving(S, key, value, left, age[:, -1] >= self.memory)
        key, value, left = (
            next_ring(each, self.memory, count, start) for each in (keys, values, rates)
        )
        return self._mixed(y, reading, share, x), HippocampusState(key, value, left, S)

    def _gates(self, x: Float[Tensor, "*N W"], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The gates of a step's write, [*N, H, 2], and of its reading, [*N, H]."""
        beta, alpha, share = self.W_gates(x).to(dtype).chunk(3, dim=-1)
        return torch.stack([beta.sigmoid(), F.logsigmoid(alpha)], dim=-1), share.sigmoid()

    def _mixed(self, y: Tensor, reading: Tensor, share: Tensor, x: Tensor) -> Tensor:
        """The output for those of attention and memory, [*N, H, D] each."""
        scale = torch.rsqrt(reading.square().mean(-1, keepdim=True) + 1e-5)
        remembered = share[..., None] * (reading * scale)
        return self.out(y.flatten(-2).to(x.dtype)) + self.W_S(remembered.flatten(-2).to(x.dtype))


class HippocampusBlock(Block):
    """One layer: window, memory and a feedforward network."""

    def __init__(self, width: int, heads: int, memory: int, ff_size: int, position: str) -> None:
        super().__init__(width, heads, memory, ff_size, position, norm="pre")
        self.attention = Hippocampus(width, heads, memory, position)


@register("ahn")
class AHN(WindowTransformer):
    """AHN: attention over a window, and a memory of the steps before it (Fang et al. 2025).

    M is `memory`. Other options are those of `transformer_xl`, with its layer norms before.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        layers: int = 1,
        heads: int = 4,
        memory: int = 16,
        ff_size: int | None = None,
        position: str = "relative",
    ) -> None:
        def block(width: int, ff_size: int) -> Block:
            return HippocampusBlock(width, heads, memory, ff_size, position)

        super().__init__(input_size, output_size, layers, ff_size, block)
