"""minLSTM (Feng et al. 2024, arXiv 2410.01201): an LSTM whose gates do not look at the state.

    h[t] = f' h[t-1] + i' c',   f' = s(f) / (s(f) + s(i)),  i' = s(i) / (s(f) + s(i))

c, f, i are linear in u[t] (x[t] after a short convolution); c' = c (section 3.2), or g(c), which
keeps the state positive (appendix B; see `mingru`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rlmem.cores.base import register
from rlmem.cores.minrnn import MinRNN


@register("minlstm")
class MinLSTM(MinRNN):
    """Rows of the linear map: c, f, i."""

    parts = 3

    def gates(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        f, i = parts
        # Through logarithms: defined also where both gates underflow to 0.
        forget = torch.sigmoid(F.logsigmoid(f) - F.logsigmoid(i))
        return forget, 1 - forget
