"""Linear Recurrent Unit (Orvieto et al. 2023, arXiv 2303.06349).

    h[t] = lambda h[t-1] + exp(gamma) B u[t],   lambda = exp(-exp(nu) + i exp(theta))
    y[t] = Re(C h[t]) + D u[t];                 out = u + GLU(gelu(y))

|lambda| < 1 for any parameters. Initially lambda is uniform in a ring of the complex plane, and
gamma scales each mode to the variance of its input (section 3.4). The block around the recurrence
is that of section 4.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlmem.cores import ssm
from rlmem.cores.base import LinearCore, register
from rlmem.errors import UsageError, positive


@register("lru")
class LRU(LinearCore):
    """LRU: linear recurrent unit, a diagonal complex recurrence (Orvieto et al. 2023).

    The state is `h`, complex [B, state_size]. If input and output differ in size, `D` and the
    residual path are matrices. With `block=False` the output is `y`, linear in the inputs.
    """

    complex_state = True

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        state_size: int = 128,
        r_min: float = 0.4,
        r_max: float = 0.99,
        max_phase: float = 2 * math.pi,
        block: bool = True,
    ) -> None:
        super().__init__(input_size, output_size)
        size = self.state_size = positive("state_size", state_size)
        if not 0 <= r_min < r_max < 1 or not max_phase > 0:
            raise UsageError(
                f"lru needs 0 <= r_min < r_max < 1 and max_phase > 0, not {r_min}, {r_max}, "
                f"{max_phase}"
            )
        # 1 - rand is never 0: log(0) would give a phase without gradient.
        squared = r_min**2 + (1 - torch.rand(size)) * (r_max**2 - r_min**2)
        self.nu_log = nn.Parameter(torch.log(-0.5 * torch.log(squared)))
        self.theta_log = nn.Parameter(torch.log(max_phase * (1 - torch.rand(size))))
        self.gamma_log = nn.Parameter(0.5 * torch.log1p(-squared))
        self.B = nn.Parameter(torch.randn(size, self.input_size, 2) / (2 * self.input_size) ** 0.5)
        self.C = nn.Parameter(torch.randn(self.output_size, size, 2) / size**0.5)
        self.D = ssm.Feedthrough(self.input_size, self.output_size)
        self.block = ssm.GatedResidual(self.input_size, self.output_size) if block else None

    def encode(self, x: Float[Tensor, "*N I"]) -> tuple[Tensor, Tensor]:
        gate = torch.polar(torch.exp(-torch.exp(self.nu_log)), torch.exp(self.theta_log))
        weight = torch.view_as_complex(self.B) * torch.exp(self.gamma_log)[:, None]
        return gate, ssm.write(x, weight, self.state_dtype)

    def decode(self, h: Tensor, x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        y = self.D(ssm.read(h, torch.view_as_complex(self.C)), x)
        return y if self.block is None else self.block(x, y)
