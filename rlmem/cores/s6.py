"""S6, the selective state space of Mamba (Gu and Dao 2023, arXiv 2312.00752).

    [u'; z] = W_in x,   u = silu(conv(u') + b),   [d; B; C] = W_x u,   dt = softplus(W_dt d + b_dt)
    h[t] = exp(dt A) h[t-1] + B (dt u)^T          [N, inner], dt along the channels
    out  = W_out((C^T h + D u) silu(z))

Algorithms 1 and 2 and figure 3. A is discretised by zero-order hold and B by Euler's rule, as in
the authors' code. The causal convolution covers `conv_size` inputs of one episode (1: none).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.cores import ssm
from rlmem.cores.base import MemoryCore, register
from rlmem.cores.conv import ConvState, ShortConv
from rlmem.cores.gate_range import check_range, stretch
from rlmem.cores.over_ranks import diagonal_ends, window_ends
from rlmem.errors import positive
from rlmem.kernels import Linear, linear_scan


class Selected(NamedTuple):
    """The input-dependent parameters of the scan: `u`, `dt` [*K, inner] and `B`, `C` [*K, N]."""

    u: Tensor
    dt: Tensor
    B: Tensor
    C: Tensor


def discretize(
    selected: Selected, A: Float[Tensor, "N D"], gate_range: str = "positive"
) -> tuple[Tensor, Tensor]:
    """Gate `exp(dt A)` and value `B (dt u)`, both [*K, N * inner]."""
    gate = stretch(torch.exp(selected.dt[..., None, :] * A), gate_range)
    value = selected.B[..., None] @ (selected.dt * selected.u)[..., None, :]
    return gate.flatten(-2), value.flatten(-2)


def contract(h: Float[Tensor, "*K ND"], selected: Selected) -> Float[Tensor, "*K D"]:
    """`C h`, [*K, inner]."""
    return (selected.C[..., None, :] @ h.unflatten(-1, (-1, selected.u.shape[-1]))).squeeze(-2)


@register("s6")
class S6(MemoryCore[ConvState]):
    """S6: Mamba's selective state space with its short convolution (Gu and Dao 2023).

    There are `inner = expand * output_size` channels of `channel_states` states each. `gate` is the
    range of the gate: positive (the paper's, exp(dt A)) or signed (2 exp(dt A) - 1).
    """

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        channel_states: int = 8,
        expand: int = 1,
        conv_size: int = 4,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        gate: str = "positive",
    ) -> None:
        super().__init__(input_size, output_size)
        self.gate = check_range(gate, ("positive", "signed"))
        inner = self.inner = positive("expand", expand) * self.output_size
        size = self.channel_states = positive("channel_states", channel_states)
        rank = math.ceil(inner / 16)
        self.split = (rank, size, size)
        self.W_in = Linear(self.input_size, 2 * inner, bias=False)
        self.conv = ShortConv(inner, conv_size)
        self.W_x = Linear(inner, rank + 2 * size, bias=False)
        self.W_dt = Linear(rank, inner)
        nn.init.uniform_(self.W_dt.weight, -(rank**-0.5), rank**-0.5)
        # softplus(bias) is then log-uniform in [dt_min, dt_max].
        dt = torch.exp(ssm.log_steps(inner, dt_min, dt_max))
        self.W_dt.bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, size + 1))[:, None].repeat(1, inner))
        self.D = nn.Parameter(torch.ones(inner))
        self.W_out = Linear(inner, self.output_size, bias=False)

    def initial_state(self, batch_size: int) -> ConvState:
        return ConvState(
            self.zeros(batch_size, self.conv.size - 1, self.inner),
            self.zeros(batch_size, self.inner * self.channel_states),
        )

    def update(
        self, x: Float[Tensor, "B I"], state: ConvState
    ) -> tuple[Float[Tensor, "B O"], ConvState]:
        u, z = self._project(x)
        u, window = self.conv.step(u, state.window)
        selected = self._select(u)
        gate, value = discretize(selected, self._A(), self.gate)
        h = gate * state.h + value
        return self._output(h, selected, z), ConvState(window, h)

    def scan(
        self, x: Float[Tensor, "B T I"], state: ConvState, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], ConvState]:
        u, z = self._project(x)
        u, window = self.conv.scan(u, state.window, start)
        selected = self._select(u)
        gate, value = discretize(selected, self._A(), self.gate)
        h = linear_scan(gate, value, state.h, start)
        return self._output(h, selected, z), ConvState(window, h[:, -1].clone())

    def ends_over_ranks(
        self, x: Float[Tensor, "B T I"], state: ConvState, start: Bool[Tensor, "B T"]
    ) -> tuple[ConvState, ConvState]:
        """For `scan_over_ranks`: the states before this rank's piece and after the whole row."""
        u, _ = self._project(x)
        window, last_window = window_ends(u, state.window, start)
        selected = self._select(self.conv.scan(u, window, start)[0])
        h, last = diagonal_ends(*discretize(selected, self._A(), self.gate), state.h, start)
        return ConvState(window, h), ConvState(last_window, last)

    def _A(self) -> Float[Tensor, "N D"]:
        return -torch.exp(self.A_log)

    def _project(self, x: Float[Tensor, "*N I"]) -> tuple[Tensor, Tensor]:
        u, z = self.W_in(x).chunk(2, dim=-1)
        return u.to(self.state_dtype), z

    def _select(self, convolved: Float[Tensor, "*N D"]) -> Selected:
        u = F.silu(convolved)
        d, B, C = self.W_x(u).split(self.split, dim=-1)
        dt = F.softplus(self.W_dt(d).to(self.state_dtype))
        return Selected(u, dt, B.to(self.state_dtype), C.to(self.state_dtype))

    def _output(self, h: Tensor, selected: Selected, z: Tensor) -> Float[Tensor, "*N O"]:
        y = contract(h, selected) + self.D * selected.u
        return self.W_out(y * F.silu(z))
