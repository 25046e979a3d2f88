"""Short causal convolution before a recurrence: one filter per channel, within an episode."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.errors import positive
from rlmem.kernels import short_conv


class ConvState(NamedTuple):
    """State of a convolution and a diagonal recurrence: `window` [B, W-1, channels], `h` [B, D].

    `window` holds the convolution's last inputs, oldest first; zero before the episode's first.
    """

    window: Tensor
    h: Tensor


class ShortConv(nn.Module):
    """`y[t] = bias + sum_j weight[:, W-1-j] x[t-j]` within an episode; W = 1 means `y = x`."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.size = positive("conv_size", size)
        self.channels = channels
        if size > 1:
            bound = size**-0.5
            self.weight = nn.Parameter(torch.empty(channels, size).uniform_(-bound, bound))
            self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))

    def step(
        self, x: Float[Tensor, "B D"], window: Float[Tensor, "B V D"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B V D"]]:
        """The output of one step, and the next window."""
        if self.size == 1:
            return x, window
        row = torch.cat([window, x[:, None].to(window.dtype)], dim=1)
        return self.bias + (row * self.weight.t()).sum(1), row[:, 1:]

    def scan(
        self, x: Float[Tensor, "B T D"], window: Float[Tensor, "B V D"], start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B V D"]]:
        """The outputs of a row, and the next window. Inputs before a start are never read."""
        if self.size == 1:
            return x, window
        x = x.to(window.dtype)
        y = short_conv(x, self.weight, self.bias, window, start)
        return y, next_window(x, window, start)


def next_window(
    x: Float[Tensor, "B T D"], window: Float[Tensor, "B V D"], start: Bool[Tensor, "B T"]
) -> Float[Tensor, "B V D"]:
    """The last inputs of the row, zero before the last start."""
    kept = window.shape[1]
    last = torch.cat([window, x[:, -kept:]], dim=1)[:, -kept:]
    # Steps before the row count as no starts.
    starts = F.pad(start, (kept, 0))[:, -kept:].flip(1)
    # later[:, k] is the number of starts after the k-th input of `last`.
    later = F.pad(starts[:, :-1].cumsum(1), (1, 0)).flip(1)
    return torch.where(later[..., None] > 0, 0, last)
