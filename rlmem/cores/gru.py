"""Gated recurrent unit (Cho et al. 2014, arXiv 1406.1078), in the form of `torch.nn.GRU`.

r, z = s(W_r x + U_r h), s(W_z x + U_z h);  n = tanh(W_n x + b + r (U_n h + b'));
h' = (1 - z) n + z h
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rlmem.cores.base import register
from rlmem.cores.gated import GatedCore


@register("gru")
class GRU(GatedCore[Tensor]):
    """The state is the output, [B, O]; gate order r, z, n."""

    gates = 3

    def initial_state(self, batch_size: int) -> Tensor:
        return self.zeros(batch_size, self.output_size)

    def cell(
        self, projected: Float[Tensor, "B GO"], state: Tensor
    ) -> tuple[Float[Tensor, "B O"], Tensor]:
        x_r, x_z, x_n = projected.chunk(3, dim=-1)
        h_r, h_z, h_n = self.recur(state).chunk(3, dim=-1)
        new = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
        h = torch.lerp(new.to(state.dtype), state, torch.sigmoid(x_z + h_z).to(state.dtype))
        return h, h
