"""Pure functions on tensors, one per recurrence, the same for every device."""

from rlmem.kernels.linear_scan import linear_scan

__all__ = ["linear_scan"]
