"""Linear layers with products of bfloat16 under autocast on the CPU, and their LayerNorm."""

from rlmem.kernels.bf16_linear.ops import Linear, linear, linear_norm
from rlmem.kernels.bf16_linear.reference import layer_reference

__all__ = ["Linear", "layer_reference", "linear", "linear_norm"]
