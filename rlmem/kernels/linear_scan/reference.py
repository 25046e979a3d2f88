"""The definition of the diagonal linear recurrence: a plain loop, in any floating or complex dtype."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_scan_reference(
    gate: Tensor, value: Tensor, h0: Tensor | None = None, start: Tensor | None = None
) -> Tensor:
    """`h[t] = gate[t] * (0 if start[t] else h[t-1]) + value[t]`, one step after the other.

    Same arguments and result as `rlmem.kernels.linear_scan`.
    """
    gate = gate.expand(value.shape)
    h = torch.zeros_like(value[:, 0]) if h0 is None else h0
    states = []
    for t in range(value.shape[1]):
        if start is not None:
            h = torch.where(start[:, t, None], torch.zeros_like(h), h)
        h = gate[:, t] * h + value[:, t]
        states.append(h)
    return torch.stack(states, dim=1)
