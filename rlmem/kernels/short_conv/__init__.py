"""Short causal convolution with one filter per channel."""

from rlmem.kernels.short_conv.ops import short_conv
from rlmem.kernels.short_conv.reference import short_conv_reference

__all__ = ["short_conv", "short_conv_reference"]
