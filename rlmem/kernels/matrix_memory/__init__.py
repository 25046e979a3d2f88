"""Gated outer-product memory: mLSTM, retention, (gated) linear attention."""

from rlmem.kernels.matrix_memory.ops import matrix_memory
from rlmem.kernels.matrix_memory.reference import (
    Memory,
    Read,
    matrix_memory_reference,
    matrix_memory_step,
)

__all__ = ["Memory", "Read", "matrix_memory", "matrix_memory_reference", "matrix_memory_step"]
