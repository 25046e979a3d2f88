"""Minimal gated unit (Zhou et al. 2016, arXiv 1603.09420): a GRU with one gate.

    f = s(W_f x + U_f h + b_f);  c = tanh(W_c x + U_c (f * h) + b_c);  h' = (1 - f) h + f c

The output is h'.
"""

from __future__ import annotations

from rlmem.cores.base import register
from rlmem.cores.simple import SimpleCore


@register("mgu")
class MGU(SimpleCore):
    """MGU: minimal gated unit, a GRU whose one gate both forgets and resets (Zhou et al. 2016).

    The order of the pre-activations is f, c.
    """

    cell = "mgu"
    parts = 2
