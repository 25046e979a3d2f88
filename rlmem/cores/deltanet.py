"""DeltaNet (Yang et al. 2024, arXiv 2406.06484), and DeltaProduct (Siems et al. 2025, 2502.10297).

The equations are in `delta.py`, without decay (g = 0): only overwriting erases memory.
"""

from __future__ import annotations

from rlmem.cores.base import register
from rlmem.cores.delta import DeltaCore


@register("deltanet")
class DeltaNet(DeltaCore):
    """DeltaNet: linear attention with the delta rule (Yang et al. 2024).

    A write replaces the value stored at a key. `householder_steps` > 1 is DeltaProduct.
    """

    # The norm divides by the length of a reading. At steps where it is tiny, gradients are huge and
    # depend on the last bits of the products.
    smooth = False
