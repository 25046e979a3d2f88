"""Long expressive memory (Rusch et al. 2022, arXiv 2110.04744, equation 3).

    a = dt s(W_1 y + V_1 x + b_1);   b = dt s(W_2 y + V_2 x + b_2)
    z' = (1 - a) z + a tanh(W_z y + V_z x + b_z)
    y' = (1 - b) y + b tanh(W_y z' + V_y x + b_y)

a and b are learned time steps of two coupled variables. The output is y'.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from rlmem.cores.base import register
from rlmem.cores.simple import SimpleCore
from rlmem.errors import UsageError


class LEMState(NamedTuple):
    """The output `y` and the second variable `z`, both [B, O]."""

    y: Tensor
    z: Tensor


@register("lem")
class LEM(SimpleCore):
    """LEM: long expressive memory, two variables with learned time steps (Rusch et al. 2022).

    The order of the pre-activations is 1, 2, z, y. `dt` is the largest time step, in (0, 1].
    """

    cell = "lem"
    parts = 4

    def __init__(self, input_size: int, output_size: int | None = None, *, dt: float = 1.0) -> None:
        super().__init__(input_size, output_size)
        if not 0 < dt <= 1:
            raise UsageError(f"dt must be above 0 and at most 1, not {dt}")
        self.scale = float(dt)

    def initial_state(self, batch_size: int) -> LEMState:
        zeros = self.zeros(batch_size, self.output_size)
        return LEMState(zeros, zeros.clone())

    def as_state(self, *leaves: Float[Tensor, "B O"]) -> LEMState:
        return LEMState(*leaves)
