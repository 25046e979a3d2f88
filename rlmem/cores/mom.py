"""Mixture of memories (Du et al. 2025, arXiv 2502.13685): each step writes to a few of M memories.

    r = W_r x;   the K largest r select memories;   w = softmax of these r
    S_m' = gated delta rule of (k_m, v_m, beta_m) on S_m for selected m and for the shared memory
    out = W_out(rmsnorm(sum_m w_m S_m'^T q + S_shared'^T q) silu(W_gate x))

Memories that are not selected keep their content, without decay, so that steps routed elsewhere do
not interfere. Every memory has its own keys, values and beta; q, the decay and the other equations
are those of `gated_deltanet`. Normalising the K largest entries of softmax(r), as the paper does,
gives the same w. The paper's additional loss, which balances the memories, is left out. In the
authors' code each memory has its own decay, and the convolution of a memory runs over its own steps
alone; here all memories share one decay and each convolution covers all steps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlmem.cores.base import register
from rlmem.cores.delta import DeltaState, write
from rlmem.cores.gated_deltanet import GatedDeltaNet
from rlmem.errors import UsageError, positive
from rlmem.kernels import Linear, delta_rule


class Routed(NamedTuple):
    """Arguments of the delta rule with a head for each memory and head, [*N, (M+1) H, ...].

    `weight` [*N, M+1] are the memories' weights in the output; the shared memory is the last.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    g: Tensor
    weight: Tensor


@register("mom")
class MoM(GatedDeltaNet):
    """MoM: a mixture of matrix memories, K of which learn in each step (Du et al. 2025).

    M is `memories`, K is `topk`; one more memory is always written. The state has the memories as
    heads, [B, (M+1) heads, D, D]. Cost and state grow with M + 1: memories that are not selected
    are computed and left unchanged.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        memories: int = 4,
        topk: int = 2,
        heads: int = 4,
        head_size: int | None = None,
        negative_eigenvalues: bool = False,
        conv_size: int = 4,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
    ) -> None:
        super().__init__(
            input_size,
            output_size,
            heads=heads,
            head_size=head_size,
            # The writes of a step go to different memories, not one after the other to the same.
            householder_steps=positive("memories", memories) + 1,
            negative_eigenvalues=negative_eigenvalues,
            conv_size=conv_size,
            dt_min=dt_min,
            dt_max=dt_max,
        )
        if positive("topk", topk) > memories:
            raise UsageError(f"topk must be at most memories, {memories}, not {topk}")
        self.topk = topk
        self.W_route = Linear(self.input_size, memories, bias=False)

    def initial_state(self, batch_size: int) -> DeltaState:
        first = super().initial_state(batch_size)
        size = self.head_size
        return first._replace(S=self.zeros(batch_size, self.writes * self.heads, size, size))

    def update(
        self, x: Float[Tensor, "B I"], state: DeltaState
    ) -> tuple[Float[Tensor, "B O"], DeltaState]:
        convolved, window = self.conv.step(self._project(x), state.window)
        q, k, v, beta, g, weight = self._routed(convolved, x)
        S = write(g.exp()[..., None, None] * state.S, k, v, beta)
        o = (S * q[..., None]).sum(-2)
        return self._output(self._mixed(o, weight), x), DeltaState(window, S)

    def scan(
        self, x: Float[Tensor, "B T I"], state: DeltaState, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], DeltaState]:
        convolved, window = self.conv.scan(self._project(x), state.window, start)
        q, k, v, beta, g, weight = self._routed(convolved, x)
        o, S = delta_rule(q, k, v, beta, g, state.S, start)
        return self._output(self._mixed(o, weight), x), DeltaState(window, S)

    def _routed(self, convolved: Float[Tensor, "*N C"], x: Float[Tensor, "*N I"]) -> Routed:
        q, k, v, beta, g = self._delta_inputs(convolved, x)
        weight, written = self._route(x)
        beta = torch.where(written[..., None], beta, 0)
        assert g is not None
        g = torch.where(written[..., None], g[..., None, :], 0)
        q = q[..., None, :, :].expand(k.shape)
        q, k, v = (each.flatten(-3, -2) for each in (q, k, v))
        return Routed(q, k, v, beta.flatten(-2), g.flatten(-2), weight)

    def _route(self, x: Float[Tensor, "*N I"]) -> tuple[Tensor, Bool[Tensor, "*N M1"]]:
        """The weights of all memories, and the memories that are written; the last is shared."""
        # In half precision, rounding would choose other memories.
        with torch.autocast(x.device.type, enabled=False):
            scores = self.W_route(x.to(self.W_route.weight.dtype)).to(self.state_dtype)
        largest, chosen = scores.topk(self.topk, dim=-1)
        one = torch.ones_like(scores[..., :1])
        weight = torch.zeros_like(scores).scatter(-1, chosen, largest.softmax(-1))
        written = torch.zeros_like(scores).scatter(-1, chosen, 1.0)
        return torch.cat([weight, one], dim=-1), torch.cat([written, one], dim=-1) > 0

    def _mixed(self, o: Float[Tensor, "*N MH D"], weight: Float[Tensor, "*N M1"]) -> Tensor:
        """The weighted sum over memories, [*N, H, D]."""
        return (weight[..., None, None] * o.unflatten(-2, (self.writes, -1))).sum(-3)
