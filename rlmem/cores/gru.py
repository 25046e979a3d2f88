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

    cell = "gru"
    gates = 3

    def initial_state(self, batch_size: int) -> Tensor:
        return self.zeros(batch_size, self.output_size)

    def bias(self) -> Float[Tensor, "PO"]:
        both = 2 * self.output_size
        gates = self.bias_ih[:both] + self.bias_hh[:both]
        return torch.cat([gates, self.bias_ih[both:], self.bias_hh[both:]])

    def as_state(self, *leaves: Float[Tensor, "B O"]) -> Tensor:
        return leaves[0]
