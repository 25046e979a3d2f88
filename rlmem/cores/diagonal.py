"""Base class of the ParaRNN cells: recurrent weights are diagonal, so that units do not interact.

(Danieli et al. 2025, arXiv 2510.21450, section 3.) As in the paper's language models, a short
convolution precedes the cell. Other units reach a unit only through the layers around the cell.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlmem.cores.base import MemoryCore
from rlmem.cores.conv import ShortConv
from rlmem.kernels import Linear, project
from rlmem.kernels.simple_rnn import CELLS, simple_rnn, simple_step

State = tuple[Tensor, ...]


class DiagonalCore(MemoryCore[State]):
    """A cell of `simple_rnn` with diagonal recurrent weights; its input is `x` after a convolution.

    The convolution covers `conv_size` steps (1: none). Without it, one layer can hardly represent
    the order of recent inputs. `diagonal` holds the K recurrent weights of each unit, [K O],
    initialised in +-1. The state is the convolution's window [B, conv_size - 1, I], then the cell's
    leaves [B, O], the output first.
    """

    cell: str  # name of the cell in `simple_rnn`

    def __init__(
        self, input_size: int, output_size: int | None = None, *, conv_size: int = 4
    ) -> None:
        super().__init__(input_size, output_size)
        kind, width = CELLS[self.cell], self.output_size
        self.leaves = kind.states
        self.conv = ShortConv(self.input_size, conv_size)
        self.linear = Linear(self.input_size, kind.parts * width)
        self.diagonal = nn.Parameter(torch.empty(kind.diagonals * width).uniform_(-1, 1))

    def initial_state(self, batch_size: int) -> State:
        window = self.zeros(batch_size, self.conv.size - 1, self.input_size)
        return window, *(self.zeros(batch_size, self.output_size) for _ in range(self.leaves))

    def update(self, x: Float[Tensor, "B I"], state: State) -> tuple[Float[Tensor, "B O"], State]:
        window, *leaves = state
        u, window = self.conv.step(x, window)
        projected = self.linear(u).to(self.state_dtype)
        new = simple_step(self.cell, projected, self.diagonal, tuple(leaves))
        return new[0], (window, *new)

    def scan(
        self, x: Float[Tensor, "B T I"], state: State, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], State]:
        window, *leaves = state
        u, window = self.conv.scan(x, window, start)
        projected = project(u, self.linear.weight).to(self.state_dtype) + self.linear.bias
        h, last = simple_rnn(self.cell, projected, self.diagonal, tuple(leaves), start)
        return h, (window, *last)
