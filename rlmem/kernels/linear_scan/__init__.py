"""Diagonal linear recurrence."""

from rlmem.kernels.linear_scan.ops import linear_scan
from rlmem.kernels.linear_scan.reference import linear_scan_reference

__all__ = ["linear_scan", "linear_scan_reference"]
