"""Base class of recurrent cells without C kernels: Elman, MGU, LEM and wave RNN."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlmem import tree
from rlmem.cores.base import MemoryCore
from rlmem.errors import unknown
from rlmem.kernels import project
from rlmem.kernels.simple_rnn import simple_rnn, simple_step

ACTIVATIONS = ("tanh", "relu")


class SimpleCore(MemoryCore[Any]):
    """A recurrent cell of `simple_rnn`: its input map and the scan over a row.

    `weight_ih` [P O, I] and `bias` [P O] map the input to P pre-activations per unit; `weight_hh`
    [P O, O] maps the output of the step before. All are initialised uniformly in +-1/sqrt(O). A
    state with one leaf is this leaf, [B, O]; it is the output.
    """

    cell: str  # name of the cell in `simple_rnn`
    parts: int = 1
    scale: float = 1.0
    weight_ih: nn.Parameter
    bias: nn.Parameter

    def __init__(self, input_size: int, output_size: int | None = None) -> None:
        super().__init__(input_size, output_size)
        rows = self.parts * self.output_size
        self.weight_ih = self._uniform(rows, self.input_size)
        self.bias = self._uniform(rows)
        self.make_recurrent()

    def make_recurrent(self) -> None:
        """Make the parameters of the recurrence."""
        self.weight_hh = self._uniform(self.parts * self.output_size, self.output_size)

    def recurrent_weight(self) -> Tensor:
        """The weight as `simple_rnn` takes it, [O, P O]."""
        return self.weight_hh.t()

    def initial_state(self, batch_size: int) -> Any:
        return self.zeros(batch_size, self.output_size)

    def as_state(self, *leaves: Float[Tensor, "B O"]) -> Any:
        """The core's state made of these leaves."""
        return leaves[0]

    def update(self, x: Float[Tensor, "B I"], state: Any) -> tuple[Float[Tensor, "B O"], Any]:
        projected = nn.functional.linear(x, self.weight_ih)
        new = simple_step(self.cell, *self._kernel_inputs(projected, state), self.scale)
        return new[0], self.as_state(*new)

    def scan(
        self, x: Float[Tensor, "B T I"], state: Any, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], Any]:
        projected = project(x, self.weight_ih)
        inputs = self._kernel_inputs(projected, state)
        h, last = simple_rnn(self.cell, *inputs, start, self.scale)
        return h, self.as_state(*last)

    def _kernel_inputs(
        self, projected: Float[Tensor, "*N PO"], state: Any
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Projected input with bias, recurrent weight, and the leaves of the state."""
        # Under autocast, products are in half precision; the state is not.
        dtype = self.state_dtype
        projected = projected.to(dtype) + self.bias
        return projected, self.recurrent_weight().to(dtype), tuple(tree.leaves(state))

    def _uniform(self, *shape: int) -> nn.Parameter:
        bound = self.output_size**-0.5
        return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


def activated(cell: str, default: str, activation: str) -> str:
    """The name in `simple_rnn` of a cell with this activation; `default` has no suffix."""
    if activation not in ACTIVATIONS:
        raise unknown("activation", activation, ACTIVATIONS)
    return cell if activation == default else f"{cell}_{activation}"
