"""minGRU (Feng et al. 2024, arXiv 2410.01201): a GRU whose gate does not look at the state.

    h[t] = (1 - s(z)) h[t-1] + s(z) c',   c, z linear in x[t]

c' = c (section 3.1), or g(c), which keeps the state positive, as the paper's form in log space does
(appendix B): g(c) = c + 1/2 for c >= 0, s(c) below. A linear scan needs no logarithms for it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlmem.cores.base import LinearCore, register


def keep_positive(c: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """g(c), continuous and positive (appendix B.3)."""
    return torch.where(c >= 0, c + 0.5, torch.sigmoid(c))


@register("mingru")
class MinGRU(LinearCore):
    """The state is the output, [B, O]."""

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        positive: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__(input_size, output_size)
        self.state_size = self.output_size
        self.positive = positive
        self.linear = nn.Linear(self.input_size, 2 * self.output_size, bias=bias)

    def encode(self, x: Float[Tensor, "*N I"]) -> tuple[Tensor, Tensor]:
        c, z = self.linear(x).to(self.state_dtype).chunk(2, dim=-1)
        z = torch.sigmoid(z)
        return 1 - z, z * (keep_positive(c) if self.positive else c)

    def decode(self, h: Tensor, x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        return h
