"""The short causal convolution, one filter per channel, that stops at starts."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def causal_conv(
    x: Float[Tensor, "B T D"],
    window: Float[Tensor, "B V D"],
    weight: Float[Tensor, "D W"],
    start: Bool[Tensor, "B T"],
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B V D"]]:
    """`y[t] = sum_j weight[:, W-1-j] x[t-j]` over the `x` of the same episode, and the next window.

    W is at least 2. `window` holds the V = W - 1 inputs before the row, oldest first, zero where
    there was none; the one that is returned likewise, so that a row may be split anywhere. What
    lies before a start is never read: not even a NaN passes.
    """
    taps, time = weight.shape[1], x.shape[1]
    row = torch.cat([window, x], dim=1)
    # no_start[:, t + taps - 1 - j] says that no episode starts at t - j.
    no_start = F.pad(~start, (taps - 1, 0), value=True)
    # alive[j][:, t] says that t - j belongs to the episode of t.
    alive = [torch.ones_like(start)]
    y = x * weight[:, -1]
    for j in range(1, taps):
        alive.append(alive[-1] & no_start[:, taps - j : taps - j + time])
        past = row[:, taps - 1 - j : taps - 1 - j + time]
        y = y + torch.where(alive[j][..., None], past, 0) * weight[:, -1 - j]
    kept = torch.stack([each[:, -1] for each in alive[-2::-1]], dim=1)
    return y, torch.where(kept[..., None], row[:, time:], 0)
