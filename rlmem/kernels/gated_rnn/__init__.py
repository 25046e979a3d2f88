"""Gated recurrent networks (GRU, LSTM and sLSTM): a fused loop over time."""

from rlmem.kernels.gated_rnn.cells import CELLS
from rlmem.kernels.gated_rnn.ops import gated_rnn
from rlmem.kernels.gated_rnn.product import project
from rlmem.kernels.gated_rnn.reference import (
    gated_rnn_reference,
    gated_step,
    step_unchecked,
)

__all__ = [
    "CELLS",
    "gated_rnn",
    "gated_rnn_reference",
    "gated_step",
    "project",
    "step_unchecked",
]
