"""Base class of GRU and LSTM: the parameters of `torch.nn.RNNBase` and the fused RNN kernel."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlmem import tree
from rlmem.cores.base import MemoryCore
from rlmem.kernels import gated_rnn, linear, project
from rlmem.kernels.gated_rnn import step_unchecked

S = TypeVar("S")


class GatedCore(MemoryCore[S]):
    """A recurrent cell with `gates` pre-activations per unit, parametrised like `torch.nn.RNNBase`.

    `weight_ih` [G O, I], `weight_hh` [G O, O], `bias_ih` and `bias_hh` [G O] are initialised
    uniformly in +-1/sqrt(O). The weights of a one-layer `torch.nn` cell can be copied unchanged.
    """

    cell: str  # name of the cell in `gated_rnn`
    gates: int
    weight_ih: nn.Parameter
    weight_hh: nn.Parameter
    bias_ih: nn.Parameter
    bias_hh: nn.Parameter

    def __init__(self, input_size: int, output_size: int | None = None) -> None:
        super().__init__(input_size, output_size)
        rows = self.gates * self.output_size
        bound = self.output_size**-0.5
        for name, shape in (
            ("weight_ih", (rows, self.input_size)),
            ("weight_hh", (rows, self.output_size)),
            ("bias_ih", (rows,)),
            ("bias_hh", (rows,)),
        ):
            self.register_parameter(name, nn.Parameter(torch.empty(shape).uniform_(-bound, bound)))

    @abstractmethod
    def bias(self) -> Float[Tensor, "PO"]:
        """The biases as `gated_rnn` takes them, four per unit."""

    @abstractmethod
    def as_state(self, *leaves: Float[Tensor, "B O"]) -> S:
        """The core's state made of these leaves."""

    def update(self, x: Float[Tensor, "B I"], state: S) -> tuple[Float[Tensor, "B O"], S]:
        projected = linear(x, self.weight_ih)
        new = step_unchecked(self.cell, *self._kernel_inputs(projected, state))
        return new[0][:, 0], self._without_heads(new)

    def scan(
        self, x: Float[Tensor, "B T I"], state: S, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], S]:
        projected = project(x, self.weight_ih)
        h, last = gated_rnn(self.cell, *self._kernel_inputs(projected, state), start)
        # A view: the gradient of an index would be a copy.
        return h.squeeze(2), self._without_heads(last)

    def _kernel_inputs(
        self, projected: Float[Tensor, "*N GO"], state: S
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Projected input, weight, bias and state, with a dimension for the kernel's one head."""
        first = tuple(leaf[:, None] for leaf in tree.leaves(state))
        return projected.unsqueeze(-2), self.weight_hh.t()[None], self.bias()[None], first

    def _without_heads(self, state: tuple[Tensor, ...]) -> S:
        return self.as_state(*(leaf[:, 0] for leaf in state))
