"""Definition of the diagonal linear recurrence: a plain loop, in any dtype."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_scan_reference(
    gate: Tensor,
    value: Tensor,
    h0: Tensor | None = None,
    start: Tensor | None = None,
    *,
    reverse: bool = False,
) -> Tensor:
    """`h[t] = gate[t] * (0 if start[t] else h[t-1]) + value[t]`, step by step.

    Same arguments and result as `rlmem.kernels.linear_scan`.
    """
    gates, values = gate.expand(value.shape).unbind(1), value.unbind(1)
    h = torch.zeros_like(values[0]) if h0 is None else h0
    states: list[Tensor] = []
    times = range(len(values))
    for t in reversed(times) if reverse else times:
        gate_t = gates[t]
        if start is not None:
            # Both factors are selected: otherwise an infinite gate, or an infinite state of another
            # episode, would turn the product or its gradient into NaN.
            gate_t = torch.where(start[:, t, None], 0, gate_t)
            h = torch.where(start[:, t, None], 0, h)
        h = gate_t * h + values[t]
        states.append(h)
    return torch.stack(states[::-1] if reverse else states, dim=1)
