"""Fast and Forgetful Memory (Morad et al. 2023, arXiv 2310.04128).

    S[t] = Gamma * S[t-1] + (y s(g_in))[:, None],   Gamma[m, c] = exp(-|a_m| + i b_c)
    out  = LN(W vec S) s(g_out) + thru (1 - s(g_out));   y, thru, g_in, g_out linear in x

This recurrent form only decays (|Gamma| <= 1), so a row may have any length; the paper's closed
form divides by Gamma^t and overflows. Weights and layout follow the authors' torch code (equations
and order in the golden file), in which `a` is negative.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlmem.cores.base import LinearCore, register
from rlmem.errors import UsageError, positive
from rlmem.kernels import Linear, linear_norm


@register("ffm")
class FFM(LinearCore):
    """Fast and Forgetful Memory: sums of inputs that decay and oscillate (Morad et al. 2023).

    The state is `S` flattened, complex [B, memory_size * context_size].

    Initial decay rates of the traces are evenly spaced. The fastest is `max_decay` per step (the
    authors' value, log(DBL_MAX)/1024 - 0.02: it halves in each step). The slowest leaves the
    fraction `forgotten_at` after `max_period` steps. Initial periods of the contexts are evenly
    spaced from `min_period` to `max_period` steps. The authors' shortest period is 1 step: a phase
    of 2 pi, which is no oscillation at all; with 2 steps the sign alternates. After 300,000 steps
    of RepeatPrevious a shortest period of 1 reaches a greedy return of 0.20, and 2 reaches 1.00
    (`core.min_period=1.0` reproduces the first).
    """

    complex_state = True

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        memory_size: int = 32,
        context_size: int = 4,
        min_period: float = 2.0,
        max_period: float = 1024.0,
        forgotten_at: float = 0.01,
        max_decay: float = 0.67314718056,
    ) -> None:
        super().__init__(input_size, output_size)
        self.memory_size = positive("memory_size", memory_size)
        self.context_size = positive("context_size", context_size)
        self.state_size = memory_size * context_size
        if not 0 < min_period <= max_period or not 0 < forgotten_at < 1 or max_decay <= 0:
            raise UsageError(
                "ffm needs 0 < min_period <= max_period, 0 < forgotten_at < 1 and max_decay > 0, "
                f"not {min_period}, {max_period}, {forgotten_at}, {max_decay}"
            )
        min_decay = -math.log(forgotten_at) / max_period
        self.a = nn.Parameter(-torch.linspace(max_decay, min_decay, memory_size))
        self.b = nn.Parameter(2 * math.pi / torch.linspace(min_period, max_period, context_size))
        self.write = Linear(self.input_size, 2 * memory_size)
        self.skip = Linear(self.input_size, 2 * self.output_size)
        self.mix = Linear(2 * self.state_size, self.output_size)

    def gamma(self) -> Tensor:
        """`exp(-|a_m| + i b_c)`, complex, flattened to [memory_size * context_size]."""
        decay = torch.exp(-self.a.abs())[:, None].expand(-1, self.context_size)
        return torch.polar(decay, self.b.expand_as(decay)).flatten()

    def encode(self, x: Float[Tensor, "*N I"]) -> tuple[Tensor, Tensor]:
        y, g_in = self.write(x).to(self.state_dtype).chunk(2, dim=-1)
        value = y * torch.sigmoid(g_in)
        value = value[..., None].expand(*value.shape, self.context_size)
        return self.gamma(), value.flatten(-2)

    def decode(self, h: Tensor, x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        parts = torch.view_as_real(h).flatten(-2)
        read = linear_norm(parts, self.mix.weight, self.mix.bias)
        thru, g_out = self.skip(x).chunk(2, dim=-1)
        return torch.lerp(thru, read.to(thru.dtype), torch.sigmoid(g_out))
