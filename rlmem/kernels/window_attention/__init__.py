"""Causal attention over a sliding window within one episode."""

from rlmem.kernels.window_attention.ops import window_attention
from rlmem.kernels.window_attention.reference import segments, window_attention_reference

__all__ = ["segments", "window_attention", "window_attention_reference"]
