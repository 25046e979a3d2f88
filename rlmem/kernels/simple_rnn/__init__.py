"""Simple recurrent networks (Elman, IndRNN, MGU and LEM): a loop over time."""

from rlmem.kernels.simple_rnn.cells import CELLS
from rlmem.kernels.simple_rnn.ops import simple_rnn
from rlmem.kernels.simple_rnn.reference import simple_rnn_reference, simple_step

__all__ = ["CELLS", "simple_rnn", "simple_rnn_reference", "simple_step"]
