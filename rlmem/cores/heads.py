"""Heads: a width cut into equal parts, and the norm of each of them by itself."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def split(x: Float[Tensor, "*N W"], heads: int) -> Float[Tensor, "*N H D"]:
    """The last dimension cut into heads."""
    return x.unflatten(-1, (heads, -1))


class HeadNorm(nn.Module):
    """Layer norm of every head, [*N, H, D], then a gain for each of all units; [*N, H D]."""

    def __init__(self, heads: int, size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads * size))
        self.eps = eps

    def forward(self, h: Float[Tensor, "*N H D"]) -> Float[Tensor, "*N W"]:
        return F.layer_norm(h, h.shape[-1:], eps=self.eps).flatten(-2) * self.weight
