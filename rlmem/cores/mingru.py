"""minGRU (Feng et al. 2024, arXiv 2410.01201): a GRU whose gate does not depend on the state.

    h[t] = (1 - s(z)) h[t-1] + s(z) c',   c, z linear in u[t] (x[t] after a short convolution)

c' = c (section 3.1); or c' = g(c), with g(c) = c + 1/2 for c >= 0 and s(c) below, which keeps the
state positive like the paper's log-space form (appendix B). The linear scan needs no logarithms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlmem.cores.base import register
from rlmem.cores.minrnn import MinRNN


@register("mingru")
class MinGRU(MinRNN):
    """minGRU: a GRU whose gate depends on the input only (Feng et al. 2024).

    The linear map's outputs are c, z.
    """

    parts = 2

    def gates(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        z = torch.sigmoid(parts[0])
        return 1 - z, z
