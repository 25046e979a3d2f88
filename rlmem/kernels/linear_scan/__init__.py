"""The diagonal linear recurrence."""

from __future__ import annotations

from torch import Tensor

from rlmem.kernels.linear_scan.reference import linear_scan_reference

__all__ = ["linear_scan", "linear_scan_reference"]


def linear_scan(
    gate: Tensor,
    value: Tensor,
    h0: Tensor | None = None,
    start: Tensor | None = None,
    *,
    reverse: bool = False,
) -> Tensor:
    """`h[t] = gate[t] * (0 if start[t] else h[t-1]) + value[t]`."""
    return linear_scan_reference(gate, value, h0, start, reverse=reverse)
