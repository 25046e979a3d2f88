"""Long short-term memory (Hochreiter and Schmidhuber 1997), in the form of `torch.nn.LSTM`.

i, f, o = s(W x + U h + b);  g = tanh(W_g x + U_g h + b_g);  c' = f c + i g;  h' = o tanh(c')
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from rlmem.cores.base import register
from rlmem.cores.gated import GatedCore


class LSTMState(NamedTuple):
    """Output `h` and cell `c`, both [B, O]."""

    h: Tensor
    c: Tensor


@register("lstm")
class LSTM(GatedCore[LSTMState]):
    """LSTM: long short-term memory (Hochreiter and Schmidhuber 1997); gate order i, f, g, o."""

    cell = "lstm"
    gates = 4

    def initial_state(self, batch_size: int) -> LSTMState:
        zeros = self.zeros(batch_size, self.output_size)
        return LSTMState(zeros, zeros)

    def bias(self) -> Float[Tensor, "PO"]:
        return self.bias_ih + self.bias_hh

    def as_state(self, *leaves: Float[Tensor, "B O"]) -> LSTMState:
        return LSTMState(*leaves)
