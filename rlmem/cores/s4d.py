"""S4D, one diagonal state space per channel (Gu et al. 2022, arXiv 2206.11893).

    h[t] = exp(dt A) h[t-1] + u[t],   y[t] = 2 Re(C (exp(dt A) - 1) / A . h[t]) + D u[t]
    out  = a s(b),   [a; b] = W gelu(y) + b0

`s4` is another name of this core. S4 itself (arXiv 2111.00396) has the dense HiPPO matrix and
computes a row as one convolution with the kernel C Abar^k B. Its output at t sums over all earlier
inputs, so an episode that starts in mid-row would read the previous one, and a convolution has no
state to reset there. The diagonal form is as expressive, and a recurrence, which can be reset at
any step.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from rlmem.cores import hippo, ssm
from rlmem.cores.base import LinearCore, linear_or_identity, register
from rlmem.errors import UsageError, positive, unknown


def legs(order: int) -> Tensor:
    """Poles of S4D-LegS with positive imaginary part: eigenvalues of HiPPO-LegS's normal part."""
    return hippo.legs_diagonal(order)[0][order // 2 :]


def lin(order: int) -> Tensor:
    """Poles of S4D-Lin, -1/2 + i pi n (section 4.2, eq. 9)."""
    n = torch.arange(order // 2, dtype=torch.float64)
    return torch.complex(torch.full_like(n, -0.5), math.pi * n)


def inv(order: int) -> Tensor:
    """Poles of S4D-Inv, -1/2 + i N/pi (N / (2n + 1) - 1) (section 4.2, eq. 8)."""
    n = torch.arange(order // 2, dtype=torch.float64)
    return torch.complex(torch.full_like(n, -0.5), order / math.pi * (order / (2 * n + 1) - 1))


INITS = {"legs": legs, "lin": lin, "inv": inv}


@register("s4")
@register("s4d")
class S4D(LinearCore):
    """S4D: one diagonal state space per channel (Gu et al. 2022).

    The state is `h`, complex [B, output_size * channel_states / 2]: one of each conjugate pair.
    There are `output_size` channels; a linear map comes first if the input has another size. With
    `glu=False` the output is `y`.
    """

    complex_state = True

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        channel_states: int = 16,
        init: str = "legs",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        glu: bool = True,
    ) -> None:
        super().__init__(input_size, output_size)
        if positive("channel_states", channel_states) % 2:
            raise UsageError(f"channel_states must be even, not {channel_states}")
        if init not in INITS:
            raise unknown("init", init, INITS)
        channels, pairs = self.output_size, channel_states // 2
        self.state_size = channels * pairs
        self.embed = linear_or_identity(self.input_size, channels)
        poles = INITS[init](channel_states).to(torch.complex64).expand(channels, pairs)
        self.log_dt = nn.Parameter(ssm.log_steps(channels, dt_min, dt_max))
        self.log_A_real = nn.Parameter(torch.log(-poles.real))
        self.A_imag = nn.Parameter(poles.imag.clone())
        self.C = nn.Parameter(torch.randn(channels, pairs, 2) / 2**0.5)
        self.D = nn.Parameter(torch.randn(channels))
        self.glu = ssm.GLU(channels) if glu else nn.Identity()

    def discretize(self) -> tuple[Complex[Tensor, "H n"], Complex[Tensor, "H n"]]:
        """The gate `exp(dt A)` and the output map `C (exp(dt A) - 1) / A`."""
        A = torch.complex(-torch.exp(self.log_A_real), self.A_imag)
        less_one = ssm.expm1(A * torch.exp(self.log_dt)[:, None])
        return 1 + less_one, torch.view_as_complex(self.C) * less_one / A

    def encode(self, x: Float[Tensor, "*N I"]) -> tuple[Tensor, Tensor]:
        gate, _ = self.discretize()
        u = self.embed(x).to(self.state_dtype)[..., None].expand(*x.shape[:-1], *gate.shape)
        return gate.flatten(), u.flatten(-2)

    def decode(self, h: Tensor, x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        _, out = self.discretize()
        pairs = torch.view_as_real(2 * out.conj_physical()).flatten(-2)
        h = torch.view_as_real(h).flatten(-2).unflatten(-1, pairs.shape)
        return self.glu((h * pairs).sum(-1) + self.D * self.embed(x))
