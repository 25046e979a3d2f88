"""Gated DeltaNet (Yang et al. 2025, arXiv 2412.06464), and Gated DeltaProduct (2502.10297).

The equations of `delta.py` with Mamba2's decay and an output gate:

    g = -exp(A_log) softplus(W_dt x + b_dt)     per head
    out = W_out(rmsnorm(S^T q) silu(W_gate x))
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.cores import ssm
from rlmem.cores.base import register
from rlmem.cores.delta import DeltaCore
from rlmem.kernels import Linear


@register("gated_deltanet")
class GatedDeltaNet(DeltaCore):
    """Gated DeltaNet: the delta rule with a decay and an output gate (Yang et al. 2025).

    A write replaces the value stored at a key; the decay can erase the whole memory.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        heads: int = 4,
        head_size: int | None = None,
        householder_steps: int = 1,
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
            householder_steps=householder_steps,
            negative_eigenvalues=negative_eigenvalues,
            conv_size=conv_size,
        )
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.W_dt = Linear(self.input_size, heads)
        # softplus(bias) is then log-uniform in [dt_min, dt_max].
        dt = torch.exp(ssm.log_steps(heads, dt_min, dt_max))
        self.W_dt.bias = nn.Parameter(torch.expm1(dt).log())
        self.W_gate = Linear(self.input_size, self.inner, bias=False)

    def log_decay(self, x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N H"]:
        return -self.A_log.exp() * F.softplus(self.W_dt(x).to(self.state_dtype))

    def gate(self, y: Float[Tensor, "*N D"], x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N D"]:
        return y * F.silu(self.W_gate(x))
