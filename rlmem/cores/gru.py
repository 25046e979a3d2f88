"""Gated recurrent unit (Cho et al. 2014, arXiv 1406.1078), in the form of `torch.nn.GRU`.

r, z = s(W_r x + U_r h), s(W_z x + U_z h);  n = tanh(W_n x + b + r (U_n h + b'));
h' = (1 - z) n + z h
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlmem.cores.base import register
from rlmem.cores.gated import GatedCore
from rlmem.errors import UsageError, unknown
from rlmem.kernels.gated_rnn.newton_gru import gru_parallel

SOLVERS = ("sequential", "newton", "quasi-newton")


@register("gru")
class GRU(GatedCore[Tensor]):
    """GRU: gated recurrent unit (Cho et al. 2014).

    The state is the output, [B, O]; the gate order is r, z, n. `solver` selects the computation of
    a row: step by step, or all steps at once by (quasi-)Newton iterations until the residual
    f(h[t-1], x[t]) - h[t] is at most `tolerance`. docs/parallel-rnn.md tells when that is faster.
    """

    cell = "gru"
    gates = 3

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        solver: str = "sequential",
        tolerance: float = 1e-6,
    ) -> None:
        super().__init__(input_size, output_size)
        if solver not in SOLVERS:
            raise unknown("solver", solver, SOLVERS)
        if not tolerance > 0:
            raise UsageError(f"tolerance must be positive, not {tolerance}")
        self.solver, self.tolerance = solver, tolerance

    def initial_state(self, batch_size: int) -> Tensor:
        return self.zeros(batch_size, self.output_size)

    def bias(self) -> Float[Tensor, "PO"]:
        both = 2 * self.output_size
        gates = self.bias_ih[:both] + self.bias_hh[:both]
        return torch.cat([gates, self.bias_ih[both:], self.bias_hh[both:]])

    def as_state(self, *leaves: Float[Tensor, "B O"]) -> Tensor:
        return leaves[0]

    def scan(
        self, x: Float[Tensor, "B T I"], state: Tensor, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], Tensor]:
        if self.solver == "sequential":
            return super().scan(x, state, start)
        projected = nn.functional.linear(x, self.weight_ih, self.bias_ih).to(self.state_dtype)
        h = gru_parallel(
            projected,
            self.weight_hh,
            self.bias_hh,
            state,
            start,
            diagonal=self.solver == "quasi-newton",
            tolerance=self.tolerance,
        ).h
        return h, h[:, -1].clone()
