"""Pure functions on tensors, one per recurrence, the same for every device."""

from rlmem.kernels.linear_scan import linear_scan
from rlmem.kernels.short_conv import short_conv

__all__ = ["linear_scan", "short_conv"]
