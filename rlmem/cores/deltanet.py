"""DeltaNet (Yang et al. 2024, arXiv 2406.06484), and DeltaProduct (Siems et al. 2025, 2502.10297).

The equations are in `delta.py`; nothing is forgotten unless it is overwritten (g = 0).
"""

from __future__ import annotations

from rlmem.cores.base import register
from rlmem.cores.delta import DeltaCore


@register("deltanet")
class DeltaNet(DeltaCore):
    """A matrix memory per head that replaces what it holds at a key; DeltaProduct with N > 1."""

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        heads: int = 4,
        head_size: int | None = None,
        householder_steps: int = 1,
        negative_eigenvalues: bool = False,
        conv_size: int = 4,
    ) -> None:
        options = (heads, head_size, householder_steps, negative_eigenvalues, conv_size)
        super().__init__(input_size, output_size, *options)
