"""What the gated recurrent cells share: one map of the whole row's input, then a loop over time."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlmem import tree
from rlmem.cores.base import MemoryCore

S = TypeVar("S")


class GatedCore(MemoryCore[S]):
    """A recurrent cell with `gates` pre-activations per unit, parametrised like `torch.nn.RNNBase`.

    `weight_ih` [G O, I], `weight_hh` [G O, O], `bias_ih` and `bias_hh` [G O], all uniform in
    +-1/sqrt(O) at first; the weights of a one-layer `torch.nn` cell can be copied as they are.
    """

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
    def cell(self, projected: Float[Tensor, "B GO"], state: S) -> tuple[Float[Tensor, "B O"], S]:
        """One time step from the input's share of the gates."""

    def project(self, x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N GO"]:
        """The input's share of the gates, `weight_ih x + bias_ih`."""
        return nn.functional.linear(x, self.weight_ih, self.bias_ih)

    def recur(self, h: Float[Tensor, "B O"]) -> Float[Tensor, "B GO"]:
        """The state's share of the gates, `weight_hh h + bias_hh`."""
        return nn.functional.linear(h, self.weight_hh, self.bias_hh)

    def update(self, x: Float[Tensor, "B I"], state: S) -> tuple[Float[Tensor, "B O"], S]:
        return self.cell(self.project(x), state)

    def scan(
        self, x: Float[Tensor, "B T I"], state: S, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], S]:
        initial = self.initial_state(x.shape[0])
        outputs = []
        for projected, start_t in zip(self.project(x).unbind(1), start.unbind(1), strict=True):
            y, state = self.cell(projected, tree.select(start_t, initial, state))
            outputs.append(y)
        return torch.stack(outputs, dim=1), state
