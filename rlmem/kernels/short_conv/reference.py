"""Definition of the short causal convolution: one torch operation per step of the filter."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def short_conv_reference(
    x: Tensor, weight: Tensor, bias: Tensor, window: Tensor, start: Tensor
) -> Tensor:
    """`y[t] = bias + sum_j weight[:, W-1-j] x[t-j]` over the steps of one episode.

    Same arguments and result as `rlmem.kernels.short_conv`.
    """
    row, y = torch.cat([window, x], dim=1), bias.expand(x.shape)
    for at, alive in taps(start, weight.shape[1]):
        past = torch.where(alive[..., None], row[:, at : at + x.shape[1]], 0)
        y = torch.addcmul(y, past, weight[:, at])
    return y


def taps(start: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    """For j = 0, 1, ...: the column of `weight` for step t-j, and if t-j is in t's episode [B, T].

    In `cat([window, x], 1)`, step t-j is at that same column plus t.
    """
    alive = torch.ones_like(start)
    for j in range(size):
        if j > 0:
            # No episode starts at t - j + 1. Before the row's first step there are no starts.
            started = start[:, : max(0, start.shape[1] - (j - 1))]
            before = start.new_zeros(start.shape[0], min(j - 1, start.shape[1]))
            alive = alive & ~torch.cat([before, started], dim=1)
        yield size - 1 - j, alive
