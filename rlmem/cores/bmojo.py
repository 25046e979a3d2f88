"""B'MOJO (Zancato et al. 2024, arXiv 2407.06324): fading memory and kept steps.

A layer has a state space (S6, as in the paper) whose state fades, and attends to four things in one
softmax: this step, the W steps before it, the M older steps of greatest prediction error, and the
state space's output m_t:

    m_t = S6(u)_t
    y_t = W_out sum_j softmax_j(q_t . k_j / sqrt(D) + b_{t-j}) v_j,    k, v of m_t: W_m m_t

b is learned for each distance up to W, for kept steps and for m_t. The prediction error of a step
decides whether it is kept when it leaves the window (`eidetic.py`):

    e_t = |u_t - S^T z_t|^2,   then S' = S + z_t (u_t - S^T z_t)^T / 2       z_t: u_{t-1}, length 1

So the predictor is a linear map from one step to the next, fitted in the episode by normalised
least mean squares; the first step of an episode is predicted as zero. The paper's innovation test
keeps steps by the error of a predictor, too. Ours has no parameters: the choice of steps gives no
gradient that could train it, and an agent has no second loss.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.cores.attention import WindowAttention, next_ring, take
from rlmem.cores.base import register
from rlmem.cores.conv import ConvState
from rlmem.cores.delta import unit
from rlmem.cores.eidetic import Chosen, Kept, choose, insert, kept_after, kept_count
from rlmem.cores.heads import split_heads
from rlmem.cores.s6 import S6
from rlmem.cores.transformer_xl import Block, WindowTransformer
from rlmem.errors import positive
from rlmem.kernels import Linear, delta_rule

RATE = 0.5  # step size of the predictor


class MojoState(NamedTuple):
    """`key` and `value` as in `Cache`, `error` [B, W] beside them; the kept steps, the state space,
    and the predictor: `S` [B, 1, width, width] and `last` [B, width], the input before this one.
    """

    key: Tensor
    value: Tensor
    error: Tensor
    kept: Kept
    space: ConvState
    S: Tensor
    last: Tensor


class Fading(NamedTuple):
    """Key and value [*N, H, D] of the state space's output."""

    key: Tensor
    value: Tensor


class Mojo(WindowAttention):
    """Attention over a window, the steps of greatest error before it, and a state space."""

    def __init__(
        self, width: int, heads: int, memory: int, eidetic: int, channel_states: int
    ) -> None:
        super().__init__(width, heads, memory, "none")
        self.eidetic = positive("eidetic", eidetic)
        self.space = S6(width, channel_states=channel_states)
        self.W_m = Linear(width, 2 * heads * self.size, bias=False)
        # Distances 0 to W, then kept steps, then the state.
        self.bias = nn.Parameter(torch.zeros(heads, memory + 3))

    def empty_cache(self, rows: int, like: Tensor) -> MojoState:  # type: ignore[override]
        width, kept = self.out.out_features, (rows, self.eidetic, self.heads, self.size)
        return MojoState(
            *super().empty_cache(rows, like),
            like.new_zeros(rows, self.memory),
            Kept(like.new_zeros(kept), like.new_zeros(kept), like.new_zeros(kept[:2])),
            self.space.initial_state(rows),
            like.new_zeros(rows, 1, width, width),
            like.new_zeros(rows, width),
        )

    def step(  # type: ignore[override]
        self, x: Float[Tensor, "B W"], cache: MojoState, count: Int[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B W"], MojoState]:
        """The output of one step, and the next cache."""
        dtype = cache.key.dtype
        query, key, value = self._project(x, dtype)
        m, space = self.space.update(x, cache.space)
        fading = self._fading(m, dtype)
        slots = torch.arange(self.memory, device=x.device)
        ago = (count[:, None] - 1 - slots) % self.memory + 1
        kept_slots = torch.arange(self.eidetic, device=x.device)
        empty = self.eidetic - kept_count(count, self.memory, self.eidetic)[:, None]
        there = torch.cat([ago <= count[:, None], kept_slots >= empty], dim=1)
        there = F.pad(there, (1, 0), value=True)
        place = F.pad(F.pad(ago, (1, 0)), (0, self.eidetic), value=self.memory + 1)
        bias = self.bias[:, place].transpose(0, 1)
        keys = torch.cat([key[:, None], cache.key, cache.kept.key], dim=1)
        values = torch.cat([value[:, None], cache.value, cache.kept.value], dim=1)
        scores = torch.einsum("bhd,bqhd->bhq", query, keys) * self.size**-0.5 + bias
        y = self._attended(scores.masked_fill(~there[:, None], -torch.inf), query, values, fading)
        error, S = self._error_of_step(x.detach().to(dtype), cache)
        written = slots == (count % self.memory)[:, None]
        steps = (cache.key, cache.value, cache.error[..., None, None])
        now = (key, value, error[:, None, None])
        old_key, old_value, old_error = (take(x, (count % self.memory)[:, None]) for x in steps)
        leaving = Kept(old_key, old_value, old_error.flatten(1))
        kept = insert(cache.kept, leaving, count, self.memory)
        key, value, error = (
            torch.where(written[..., None, None], new[:, None], old)
            for new, old in zip(now, steps, strict=True)
        )
        last = x.detach().to(dtype)
        state = MojoState(key, value, error.flatten(1), kept, space, S, last)
        return self.out(y.flatten(-2).to(x.dtype)), state

    def scan(  # type: ignore[override]
        self,
        x: Float[Tensor, "B T W"],
        cache: MojoState,
        count: Int[Tensor, "B"],
        start: Bool[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B T W"], MojoState]:
        """The outputs of a row, and the cache after it."""
        dtype = cache.key.dtype
        query, key, value = self._project(x, dtype)
        m, space = self.space.scan(x, cache.space, start)
        u = x.detach().to(dtype)
        error, S = self._error_of_row(u, cache, start)
        rings = (cache.key, cache.value, cache.error[..., None, None])
        steps = self.with_past(rings, (key, value, error[..., None, None]), count)
        errors = steps[2].flatten(1)
        chosen = choose(cache.kept.error, errors, count, start)
        y = self._attend_in_chunks(query, steps, cache.kept, self._fading(m, dtype), chosen)
        kept = kept_after(chosen.final, cache.kept, (steps[0], steps[1], errors))
        key, value, error = (next_ring(each, self.memory, count, start) for each in steps)
        last = u[:, -1].clone()
        state = MojoState(key, value, error.flatten(1), kept, space, S, last)
        return self.out(y.flatten(-2).to(x.dtype)), state

    def _fading(self, m: Float[Tensor, "*N W"], dtype: torch.dtype) -> Fading:
        key, value = self.W_m(m).to(dtype).chunk(2, dim=-1)
        return Fading(split_heads(key, self.heads), split_heads(value, self.heads))

    @torch.no_grad()
    def _error_of_step(self, u: Float[Tensor, "B W"], cache: MojoState) -> tuple[Tensor, Tensor]:
        """The prediction error of a step, and the predictor after it."""
        z, S = unit(cache.last)[:, :, None], cache.S.squeeze(1)
        with torch.autocast(u.device.type, enabled=False):
            error = u[:, None] - z.mT @ S
            S = torch.baddbmm(S, z, error, alpha=RATE)
        return error.square().mean((1, 2)), S[:, None]

    @torch.no_grad()
    def _error_of_row(
        self, u: Float[Tensor, "B T W"], cache: MojoState, start: Bool[Tensor, "B T"]
    ) -> tuple[Tensor, Tensor]:
        """The prediction errors of a row [B, T], and the predictor after it."""
        before = torch.cat([cache.last[:, None], u[:, :-1]], dim=1)
        z = unit(torch.where(start[..., None], 0, before))[:, :, None]
        rate = torch.full_like(z[..., 0], RATE)
        fitted, S = delta_rule(z, z, u[:, :, None], rate, None, cache.S, start)
        # The kernel reads after it has written, which made the error smaller.
        error = (u - fitted.squeeze(2)) / (1 - RATE * z.square().sum(-1))
        return error.square().mean(-1), S

    def _attend_in_chunks(
        self,
        query: Float[Tensor, "B T H D"],
        steps: list[Tensor],
        kept: Kept,
        fading: Fading,
        chosen: Chosen,
    ) -> Float[Tensor, "B T H D"]:
        time, (chunks, size) = query.shape[1], chosen.near.shape[1:3]
        extra = (0, 0, 0, 0, 0, chunks * size - time)
        query, *fading_parts = (
            F.pad(each, extra).unflatten(1, (chunks, size)) for each in (query, *fading)
        )
        carried, memory = chosen.carried, self.memory
        keys, values = (
            torch.cat(
                [
                    take(torch.cat([old, new], dim=1), carried),
                    F.pad(new, extra).unfold(1, memory + size, size).permute(0, 1, 4, 2, 3),
                ],
                dim=2,
            )
            for old, new in zip(kept[:2], steps[:2], strict=True)
        )
        there = (chosen.kept | chosen.near)[:, :, None]
        with torch.autocast(query.device.type, enabled=False):
            scores = torch.einsum("bnchd,bnqhd->bnhcq", query, keys) * self.size**-0.5
            scores = (scores + self._bias_in_chunk(size)).masked_fill(~there, -torch.inf)
            y = self._attended(scores, query, values, Fading(*fading_parts))
        return y.flatten(1, 2)[:, :time]

    def _bias_in_chunk(self, size: int) -> Float[Tensor, "H C Q"]:
        """The bias of the candidates at each step of a chunk."""
        step = torch.arange(size, device=self.bias.device)[:, None]
        ago = self.memory + step - torch.arange(self.memory + size, device=step.device)
        place = ago.clamp(0, self.memory + 1)
        return self.bias[:, F.pad(place, (self.eidetic, 0), value=self.memory + 1)]

    def _attended(
        self, scores: Tensor, query: Tensor, values: Float[Tensor, "*N Q H D"], fading: Fading
    ) -> Float[Tensor, "*M H D"]:
        """The mean of values and the state's value, for the scores of steps or of chunks.

        `scores` are [B, H, Q] and `query` [B, H, D], or [B, n, H, C, Q] and [B, n, C, H, D].
        """
        state = (query * fading.key).sum(-1) * self.size**-0.5 + self.bias[:, -1]
        if scores.dim() == 3:
            weights = torch.cat([scores, state[..., None]], dim=-1).softmax(-1)
            y = torch.einsum("bhq,bqhd->bhd", weights[..., :-1], values)
            return y + weights[..., -1:] * fading.value
        weights = torch.cat([scores, state.transpose(2, 3)[..., None]], dim=-1).softmax(-1)
        y = torch.einsum("bnhcq,bnqhd->bnchd", weights[..., :-1], values)
        return y + weights[..., -1:].transpose(2, 3) * fading.value


class MojoBlock(Block):
    """One layer: window, kept steps, state space and a feedforward network."""

    def __init__(
        self,
        width: int,
        heads: int,
        memory: int,
        eidetic: int,
        channel_states: int,
        ff_size: int,
    ) -> None:
        super().__init__(width, heads, memory, ff_size, "none", norm="pre")
        self.attention = Mojo(width, heads, memory, eidetic, channel_states)


@register("bmojo")
class BMojo(WindowTransformer):
    """B'MOJO: a window, the most surprising steps before it, and a state (Zancato et al. 2024).

    W is `memory`, M is `eidetic`; `channel_states` is that of `s6`.
    """

    smooth = False  # rounding to half precision changes which steps are kept

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        layers: int = 1,
        heads: int = 4,
        memory: int = 16,
        eidetic: int = 16,
        channel_states: int = 8,
        ff_size: int | None = None,
    ) -> None:
        def block(width: int, ff_size: int) -> Block:
            return MojoBlock(width, heads, memory, eidetic, channel_states, ff_size)

        super().__init__(input_size, output_size, layers, ff_size, block)
