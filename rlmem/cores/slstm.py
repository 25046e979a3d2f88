"""sLSTM (Beck et al. 2024, xLSTM, arXiv 2405.04517): exponential gates with a stabiliser.

    i, f, z, o = W x + R h + b,   R block-diagonal, one block per head;   l = log s(f) or f
    m' = max(i, l + m),  i' = exp(i - m'),  f' = exp(l + m - m')
    c' = f' c + i' tanh(z),  n' = f' n + i',  h' = s(o) c' / n';   the output is GN(h')

Section 2.2 and appendix A. GN is a group norm over each head. The first step of an episode has no
previous m: m' = i, n' = 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlmem.cores.base import MemoryCore, register
from rlmem.errors import UsageError, positive, unknown
from rlmem.kernels import Linear, gated_rnn, project
from rlmem.kernels.gated_rnn import step_unchecked

# Forget gate -> name of the cell in `gated_rnn`.
FORGET = {"sigmoid": "slstm", "exponential": "slstm_exp"}
INITS = ("linspace", "powerlaw")


class SLSTMState(NamedTuple):
    """Output, cell, normaliser and stabiliser, all [B, O]; n = 0 before an episode's first step."""

    h: Tensor
    c: Tensor
    n: Tensor
    m: Tensor


class SLSTMCell(nn.Module):
    """The recurrent part of an sLSTM: `R`, `b` and the norm, of `heads` heads of D units.

    Its input is `W x`, [.., H, 4 D]: i, f, z, o of each head. If these come from two tensors, such
    as i, f from a convolution in the paper's block, it is `torch.cat([i_f, z_o], -1)` of two
    tensors [.., H, 2 D].
    """

    def __init__(
        self, size: int, heads: int, forget: str = "sigmoid", forget_init: str = "powerlaw"
    ) -> None:
        super().__init__()
        if size % positive("heads", heads):
            raise UsageError(f"heads must divide the width {size}, not {heads}")
        if forget not in FORGET:
            raise unknown("forget gate", forget, FORGET)
        self.cell = FORGET[forget]
        self.heads, self.size = heads, size // heads
        self.R = nn.Parameter(torch.zeros(heads, self.size, 4 * self.size))
        self.b = nn.Parameter(torch.zeros(heads, 4, self.size))
        with torch.no_grad():
            self.b[:, 1] = forget_bias(self.size, forget_init)
        self.norm = nn.GroupNorm(heads, size)

    def step(
        self, gates: Float[Tensor, "B H G"], state: SLSTMState
    ) -> tuple[Float[Tensor, "B O"], SLSTMState]:
        """One time step: the normalised output and the next state."""
        new = step_unchecked(self.cell, gates, self.R, self.b.flatten(1), self._by_head(state))
        last = SLSTMState(*(leaf.flatten(1) for leaf in new))
        return self.norm(last.h), last

    def scan(
        self, gates: Float[Tensor, "B T H G"], state: SLSTMState, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], SLSTMState]:
        """A row of steps: the normalised outputs and the last state."""
        first = self._by_head(state)
        h, new = gated_rnn(self.cell, gates, self.R, self.b.flatten(1), first, start)
        y = self.norm(h.flatten(0, 1).flatten(1)).unflatten(0, h.shape[:2])
        return y, SLSTMState(*(leaf.flatten(1) for leaf in new))

    def _by_head(self, state: SLSTMState) -> tuple[Tensor, ...]:
        return tuple(leaf.unflatten(1, (self.heads, self.size)) for leaf in state)


def forget_bias(size: int, init: str) -> Float[Tensor, "D"]:
    """Initial forget-gate biases along the units of a head: a range of time scales.

    linspace: 3 to 6 (as in the authors' mLSTM); powerlaw: from 5 down to -7, `5 - 12 u^0.3` for u
    from 0 to 1 (as in the first sLSTM block of the authors' code).
    """
    if init not in INITS:
        raise unknown("forget_init", init, INITS)
    if init == "linspace":
        return torch.linspace(3.0, 6.0, size)
    return 5.0 - 12.0 * torch.linspace(0.0, 1.0, size) ** 0.3


@register("slstm")
class SLSTM(MemoryCore[SLSTMState]):
    """sLSTM: an LSTM with exponential gates and a normaliser (Beck et al. 2024).

    A linear map of the input, then the cell with `heads` heads.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        heads: int = 2,
        forget: str = "sigmoid",
        forget_init: str = "powerlaw",
    ) -> None:
        super().__init__(input_size, output_size)
        self.cell = SLSTMCell(self.output_size, heads, forget, forget_init)
        self.W = Linear(self.input_size, 4 * self.output_size, bias=False)

    def initial_state(self, batch_size: int) -> SLSTMState:
        zeros = self.zeros(batch_size, self.output_size)
        return SLSTMState(zeros, zeros, zeros, zeros)

    def update(
        self, x: Float[Tensor, "B I"], state: SLSTMState
    ) -> tuple[Float[Tensor, "B O"], SLSTMState]:
        return self.cell.step(self._gates(x), state)

    def scan(
        self, x: Float[Tensor, "B T I"], state: SLSTMState, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], SLSTMState]:
        return self.cell.scan(self._gates(x), state, start)

    def _gates(self, x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N H G"]:
        return project(x, self.W.weight).unflatten(-1, (self.cell.heads, -1))
