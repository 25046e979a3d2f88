"""ParaLSTM (Danieli et al. 2025, arXiv 2510.21450): an LSTM with diagonal recurrent weights.

    f = s(a_f h + p_f c + B_f x + b_f);  z = tanh(a_z h + B_z x + b_z);  c' = f c + (1 - f) z
    o = s(a_o h + p_o c' + B_o x + b_o);  h' = o tanh(c')

The input gate is 1 - f, and gates read c through peepholes p. All products with a and p are
elementwise. The output is h', and x is the input after a short convolution.
"""

from __future__ import annotations

from rlmem.cores.base import register
from rlmem.cores.diagonal import DiagonalCore


@register("paralstm")
class ParaLSTM(DiagonalCore):
    """ParaLSTM: an LSTM whose units are recurrent with themselves alone (Danieli et al. 2025).

    The order of the pre-activations is f, o, z, and that of the diagonals a_f, a_o, a_z, p_f, p_o.
    """

    cell = "paralstm"
