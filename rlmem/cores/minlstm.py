"""minLSTM (Feng et al. 2024, arXiv 2410.01201): an LSTM whose gates do not look at the state.

    h[t] = f' h[t-1] + i' c',   f' = s(f) / (s(f) + s(i)),  i' = s(i) / (s(f) + s(i))

c, f, i are linear in x[t]; c' = c (section 3.2) or g(c), which keeps the state positive
(appendix B; see `mingru`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.cores.base import LinearCore, register
from rlmem.cores.mingru import keep_positive


@register("minlstm")
class MinLSTM(LinearCore):
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
        self.linear = nn.Linear(self.input_size, 3 * self.output_size, bias=bias)

    def encode(self, x: Float[Tensor, "*N I"]) -> tuple[Tensor, Tensor]:
        c, f, i = self.linear(x).to(self.state_dtype).chunk(3, dim=-1)
        # s(f) / (s(f) + s(i)) through logarithms: defined also where both gates underflow to 0.
        forget = torch.sigmoid(F.logsigmoid(f) - F.logsigmoid(i))
        return forget, (1 - forget) * (keep_positive(c) if self.positive else c)

    def decode(self, h: Tensor, x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        return h
