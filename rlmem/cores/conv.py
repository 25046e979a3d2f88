"""The short causal convolution before a recurrence, a filter per channel; it stops at starts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.errors import positive


class ConvState(NamedTuple):
    """State of a diagonal recurrence behind a convolution: `window` [B, W-1, channels], `h` [B, D].

    `window` holds the inputs of the last steps, oldest first, zero before the episode's first.
    """

    window: Tensor
    h: Tensor


class ShortConv(nn.Module):
    """`y[t] = bias + sum_j weight[:, W-1-j] x[t-j]` over the `x` of one episode; W = 1: `y = x`."""

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
        """One step and the next window."""
        if self.size == 1:
            return x, window
        row = torch.cat([window, x[:, None].to(window.dtype)], dim=1)
        return self.bias + (row * self.weight.t()).sum(1), row[:, 1:]

    def scan(
        self, x: Float[Tensor, "B T D"], window: Float[Tensor, "B V D"], start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B V D"]]:
        """A row and the next window. What lies before a start is not read: no NaN passes it."""
        if self.size == 1:
            return x, window
        size, time = self.size, x.shape[1]
        row = torch.cat([window, x.to(window.dtype)], dim=1)
        # no_start[:, t + size - 1 - j] says that no episode starts at t - j.
        no_start = F.pad(~start, (size - 1, 0), value=True)
        # alive[j][:, t] says that t - j belongs to the episode of t.
        alive = [torch.ones_like(start)]
        y = torch.addcmul(self.bias, row[:, size - 1 :], self.weight[:, -1])
        for j in range(1, size):
            alive.append(alive[-1] & no_start[:, size - j : size - j + time])
            past = row[:, size - 1 - j : size - 1 - j + time]
            past = torch.where(alive[j][..., None], past, 0)
            y = torch.addcmul(y, past, self.weight[:, -1 - j])
        kept = torch.stack([each[:, -1] for each in alive[-2::-1]], dim=1)
        return y, torch.where(kept[..., None], row[:, time:], 0)
