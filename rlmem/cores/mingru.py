"""minGRU (Feng et al. 2024, arXiv 2410.01201): a GRU whose gate does not look at the state.

    h[t] = (1 - s(z)) h[t-1] + s(z) c',   c, z linear in u[t] (x[t] after a short convolution)

c' = c (section 3.1), or g(c), which keeps the state positive, as the paper's form in log space does
(appendix B): g(c) = c + 1/2 for c >= 0, s(c) below. A linear scan needs no logarithms for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlmem.cores.base import register
from rlmem.cores.minrnn import MinRNN


@register("mingru")
class MinGRU(MinRNN):
    """Rows of the linear map: c, z."""

    parts = 2

    def gates(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        z = torch.sigmoid(parts[0])
        return 1 - z, z
