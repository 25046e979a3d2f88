"""Definition of the layer and of its gradients: plain operations of torch, with its roundings.

    z = r(x) r(W)' + b;   n = (z - mean z) / sqrt(var z + eps);   y = leaky_relu(n * scale + shift)

r rounds to bfloat16. Sums and everything else are in the dtype of `x`. In the backward pass, the
gradient d of z is rounded before both products: r(d) r(W) for x, and r(d)' r(x) for W.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return rounded(x) @ rounded(weight).t()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        d = rounded(grads[0])
        return d @ rounded(weight), d.flatten(0, -2).t() @ rounded(x).flatten(0, -2)


def rounded(x: Tensor) -> Tensor:
    """`x` with the 8 bits of bfloat16, in its own dtype."""
    return x.bfloat16().to(x.dtype)


def layer_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    norm: bool = True,
    slope: float = 1.0,
    eps: float = 1e-5,
) -> Tensor:
    """The layer [*N, I] to [*N, M]; without `norm`, y = z. Any floating dtype."""
    y = _Product.apply(x, weight)
    y = y if bias is None else y + bias
    if not norm:
        return y
    return F.leaky_relu(F.layer_norm(y, weight.shape[:1], scale, shift, eps), slope)
