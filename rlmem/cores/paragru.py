"""ParaGRU (Danieli et al. 2025, arXiv 2510.21450): a GRU with diagonal recurrent weights.

    z = s(a_z h + B_z x + b_z);  r = s(a_r h + B_r x + b_r);  c = tanh(a_c (r h) + B_c x + b_c)
    h' = (1 - z) h + z c

All products with a are elementwise. The output is h'; x is the input after a short convolution.
"""

from __future__ import annotations

from rlmem.cores.base import register
from rlmem.cores.diagonal import DiagonalCore


@register("paragru")
class ParaGRU(DiagonalCore):
    """ParaGRU: a GRU whose units are recurrent with themselves alone (Danieli et al. 2025).

    The order of the pre-activations, and of the diagonals, is z, r, c.
    """

    cell = "paragru"
