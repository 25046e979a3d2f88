"""Self-referential weight matrices: matrices that generate their own changes, in a loop."""

from rlmem.kernels.self_reference.ops import self_reference
from rlmem.kernels.self_reference.reference import RATES, self_reference_reference, self_step

__all__ = ["RATES", "self_reference", "self_reference_reference", "self_step"]
