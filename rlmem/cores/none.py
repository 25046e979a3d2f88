"""The baseline without memory: a perceptron of the current observation."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from rlmem.cores.base import MemoryCore, register
from rlmem.kernels import Linear


@register("none")
class NoMemory(MemoryCore[Tensor]):
    """No memory: a perceptron of the current observation, the baseline.

    `y = gelu(W x + b)`; the state is empty ([B, 0]).
    """

    def __init__(self, input_size: int, output_size: int | None = None) -> None:
        super().__init__(input_size, output_size)
        self.map = Linear(self.input_size, self.output_size)

    def initial_state(self, batch_size: int) -> Tensor:
        return self.zeros(batch_size, 0)

    def update(self, x: Float[Tensor, "B I"], state: Tensor) -> tuple[Float[Tensor, "B O"], Tensor]:
        return F.gelu(self.map(x)), state

    def scan(
        self, x: Float[Tensor, "B T I"], state: Tensor, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], Tensor]:
        return F.gelu(self.map(x)), state

    def ends_over_ranks(
        self, x: Float[Tensor, "B T I"], state: Tensor, start: Bool[Tensor, "B T"]
    ) -> tuple[Tensor, Tensor]:
        """For `scan_over_ranks`: the states before this rank's piece and after the whole row."""
        return state, state
