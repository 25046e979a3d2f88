"""minLSTM (Feng et al. 2024, arXiv 2410.01201): an LSTM whose gates do not depend on the state.

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
    """minLSTM: an LSTM whose gates depend on the input only (Feng et al. 2024).

    The linear map's outputs are c, f, i.
    """

    parts = 3

    def gates(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        f, i = parts
        # Logarithms avoid 0 / 0 if both gates underflow.
        forget = torch.sigmoid(F.logsigmoid(f) - F.logsigmoid(i))
        return forget, 1 - forget
