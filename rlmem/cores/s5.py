"""S5, one state space for all channels (Smith et al. 2022, arXiv 2208.04933), with resets within a
row as in Lu et al. 2023 (arXiv 2303.03982).

    h[t] = Lbar h[t-1] + Bbar u[t],   y[t] = k Re(C h[t]) + D u[t],   out = u + GLU(gelu(y))
    zoh:      Lbar = exp(Lambda dt),                           Bbar = (Lbar - 1) / Lambda B
    bilinear: Lbar = (1 + Lambda dt/2) / (1 - Lambda dt/2),    Bbar = dt / (1 - Lambda dt/2) B

Lambda, B and C are initialised in the eigenbasis of HiPPO-LegS's normal part, block by block.
"""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from rlmem.cores import hippo, ssm
from rlmem.cores.base import LinearCore, register
from rlmem.errors import UsageError, positive, unknown

# Smallest decay rate of a pole (Smith et al., `clip_eigs` of their code).
SLOWEST = 1e-4


@register("s5")
class S5(LinearCore):
    """S5: one diagonal state space for all channels (Smith et al. 2022).

    The state is `h`, complex [B, P]. With `conj_sym` only one of each conjugate pair of poles is
    kept: P = ssm_size / 2 and k = 2, else P = ssm_size and k = 1. Poles lie in the left half-plane
    for any parameters: Re Lambda is -|Lambda_re|, at most -1e-4. If input and output differ in
    size, `D` and the residual path are matrices. `prenorm` normalises `u = LN(x)`; with
    `block=False` the output is `y`, linear in `u`.
    """

    complex_state = True

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        ssm_size: int = 128,
        blocks: int = 8,
        conj_sym: bool = True,
        discretization: str = "zoh",
        dt_min: float = 0.01,
        dt_max: float = 1.0,
        prenorm: bool = False,
        block: bool = True,
    ) -> None:
        super().__init__(input_size, output_size)
        pair = 2 if conj_sym else 1
        if positive("ssm_size", ssm_size) % (pair * positive("blocks", blocks)):
            raise UsageError(f"ssm_size must be a multiple of {pair} x blocks, not {ssm_size}")
        if discretization not in ("zoh", "bilinear"):
            raise unknown("discretization", discretization, ("zoh", "bilinear"))
        self.state_size = ssm_size // pair
        self.pair = pair
        self.discretization = discretization
        self.log_step = nn.Parameter(ssm.log_steps(self.state_size, dt_min, dt_max))
        self._init_poles(ssm_size, blocks)
        self.D = ssm.Feedthrough(self.input_size, self.output_size)
        self.norm = nn.LayerNorm(self.input_size) if prenorm else nn.Identity()
        self.block = ssm.GatedResidual(self.input_size, self.output_size) if block else None

    def _init_poles(self, ssm_size: int, blocks: int) -> None:
        size = ssm_size // blocks
        poles, basis = hippo.legs_diagonal(size)
        poles, basis = poles[: size // self.pair], basis[:, : size // self.pair]
        B0 = torch.randn(blocks, size, self.input_size) / self.input_size**0.5
        C0 = torch.randn(self.output_size, blocks, size, 2) / ssm_size**0.5
        B = (basis.mH @ B0.to(basis)).flatten(0, 1)
        C = (torch.view_as_complex(C0).to(basis) @ basis).flatten(1)
        self.Lambda_re = nn.Parameter(poles.real.float().repeat(blocks))
        self.Lambda_im = nn.Parameter(poles.imag.float().repeat(blocks))
        self.B = nn.Parameter(torch.view_as_real(B).float())
        self.C = nn.Parameter(torch.view_as_real(C).float())

    def poles(self) -> Complex[Tensor, "P"]:
        """Lambda, in the left half-plane."""
        return torch.complex(-self.Lambda_re.abs().clamp(min=SLOWEST), self.Lambda_im)

    def discretize(self) -> tuple[Complex[Tensor, "P"], Complex[Tensor, "P I"]]:
        """`Lbar` and `Bbar`."""
        poles, dt, B = self.poles(), torch.exp(self.log_step), torch.view_as_complex(self.B)
        if self.discretization == "zoh":
            less_one = ssm.expm1(poles * dt)
            return 1 + less_one, (less_one / poles)[:, None] * B
        below = 1 / (1 - poles * dt / 2)
        return below * (1 + poles * dt / 2), (below * dt)[:, None] * B

    def encode(self, x: Float[Tensor, "*N I"]) -> tuple[Tensor, Tensor]:
        gate, B = self.discretize()
        return gate, ssm.write(self.norm(x), B, self.state_dtype)

    def decode(self, h: Tensor, x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        y = self.D(ssm.read(h, self.pair * torch.view_as_complex(self.C)), self.norm(x))
        return y if self.block is None else self.block(x, y)
