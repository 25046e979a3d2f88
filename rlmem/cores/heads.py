"""Heads: equal parts of a layer's width, and a layer norm of each head."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def split_heads(x: Float[Tensor, "*N W"], heads: int) -> Float[Tensor, "*N H D"]:
    """The last dimension split into heads of equal size."""
    return x.unflatten(-1, (heads, -1))


class HeadNorm(nn.Module):
    """Layer norm of each head [*N, H, D], then a gain for each unit; returns [*N, H D]."""

    def __init__(self, heads: int, size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads * size))
        self.eps = eps

    def forward(self, h: Float[Tensor, "*N H D"]) -> Float[Tensor, "*N W"]:
        return F.layer_norm(h, h.shape[-1:], eps=self.eps).flatten(-2) * self.weight
