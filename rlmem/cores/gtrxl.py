"""GTrXL, the gated Transformer-XL for reinforcement learning (Parisotto et al. 2020,
arXiv 1910.06764): pre-norm sublayers, and gates instead of residual sums.

    h = g(x, relu(Attention(LN(x)))),   y = g(h, relu(W_2 relu(W_1 LN(h))))
    g(x, y): r = s(W_r y + U_r x),  z = s(W_z y + U_z x - b),  c = tanh(W_c y + U_c (r x)),
             (1 - z) x + z c                                                (section 3.2, GRU type)

With b > 0 every layer starts near the identity: an agent first learns to react, then to remember.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.cores.base import register
from rlmem.cores.transformer_xl import Block, WindowTransformer
from rlmem.kernels import Linear


class Gate(nn.Module):
    """The GRU-type gate g(x, y); `bias` is b."""

    def __init__(self, width: int, bias: float) -> None:
        super().__init__()
        self.from_y = Linear(width, 3 * width, bias=False)
        self.from_x = Linear(width, 2 * width, bias=False)
        self.candidate = Linear(width, width, bias=False)
        self.bias = nn.Parameter(torch.full((width,), bias))

    def forward(self, x: Float[Tensor, "*N W"], y: Float[Tensor, "*N W"]) -> Float[Tensor, "*N W"]:
        y_r, y_z, y_c = self.from_y(y).chunk(3, dim=-1)
        x_r, x_z = self.from_x(x).chunk(2, dim=-1)
        z = torch.sigmoid(y_z + x_z - self.bias)
        c = torch.tanh(y_c + self.candidate(torch.sigmoid(y_r + x_r) * x))
        return (1 - z) * x + z * c


class GatedBlock(Block):
    """A layer with gates in place of its residual sums."""

    def __init__(
        self, width: int, heads: int, memory: int, ff_size: int, position: str, gate_bias: float
    ) -> None:
        super().__init__(width, heads, memory, ff_size, position, norm="pre")
        self.attention_gate = Gate(width, gate_bias)
        self.ff_gate = Gate(width, gate_bias)

    def join_attention(self, x: Tensor, y: Tensor) -> Tensor:
        """The gate around the attention."""
        return self.attention_gate(x, F.relu(y))

    def join_ff(self, x: Tensor, y: Tensor) -> Tensor:
        """The gate around the feedforward network."""
        return self.ff_gate(x, F.relu(y))


@register("gtrxl")
class GTrXL(WindowTransformer):
    """GTrXL: gated Transformer-XL for reinforcement learning (Parisotto et al. 2020).

    `layers` layers attend to a sliding window of `memory` steps.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        layers: int = 1,
        heads: int = 4,
        memory: int = 64,
        ff_size: int | None = None,
        position: str = "relative",
        gate_bias: float = 2.0,
    ) -> None:
        def block(width: int, ff_size: int) -> Block:
            return GatedBlock(width, heads, memory, ff_size, position, gate_bias)

        super().__init__(input_size, output_size, layers, ff_size, block)
