"""Kernels: one pure function on tensors per recurrence, with the same result on every device."""

from rlmem.kernels.bf16_linear import Linear, linear, linear_norm
from rlmem.kernels.delta_rule import delta_rule
from rlmem.kernels.gated_rnn import gated_rnn, gated_step, project
from rlmem.kernels.linear_scan import linear_scan
from rlmem.kernels.matrix_memory import matrix_memory
from rlmem.kernels.short_conv import short_conv
from rlmem.kernels.titans import titans
from rlmem.kernels.window_attention import window_attention

__all__ = [
    "Linear",
    "delta_rule",
    "gated_rnn",
    "gated_step",
    "linear",
    "linear_norm",
    "linear_scan",
    "matrix_memory",
    "project",
    "short_conv",
    "titans",
    "window_attention",
]
