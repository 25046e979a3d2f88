"""Helpers of diagonal state-space cores: complex maps as real matmuls, discretisation, blocks.

A complex parameter is stored as a real tensor with a last dimension (re, im), so that
`core.double()` and optimisers treat it like any other parameter.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.cores.base import linear_or_identity
from rlmem.errors import UsageError
from rlmem.kernels import Linear


def write(
    x: Float[Tensor, "*N I"], weight: Complex[Tensor, "P I"], dtype: torch.dtype
) -> Complex[Tensor, "*N P"]:
    """`weight x` for real `x`, by one real matmul of twice the width; `dtype` is the real dtype."""
    pairs = F.linear(x, torch.view_as_real(weight).movedim(-1, 1).flatten(0, 1))
    return torch.view_as_complex(pairs.to(dtype).unflatten(-1, (-1, 2)))


def read(h: Complex[Tensor, "*N P"], weight: Complex[Tensor, "O P"]) -> Float[Tensor, "*N O"]:
    """`Re(weight h)`, by one real matmul on the concatenated (re, im)."""
    pairs = torch.view_as_real(weight.conj_physical()).flatten(-2)
    return F.linear(torch.view_as_real(h).flatten(-2), pairs)


def expm1(z: Complex[Tensor, "*N"]) -> Complex[Tensor, "*N"]:
    """`exp(z) - 1` without cancellation near 0; `z` is a pole times a time step, often small."""
    real = torch.expm1(z.real) * torch.cos(z.imag) - 2 * torch.sin(z.imag / 2) ** 2
    return torch.complex(real, torch.exp(z.real) * torch.sin(z.imag))


def log_steps(size: int, dt_min: float, dt_max: float) -> Tensor:
    """Random logarithms of time steps, uniform in [log dt_min, log dt_max]."""
    if not 0 < dt_min <= dt_max:
        raise UsageError(f"time steps need 0 < dt_min <= dt_max, not {dt_min}, {dt_max}")
    return math.log(dt_min) + torch.rand(size) * math.log(dt_max / dt_min)


class Feedthrough(nn.Module):
    """`y + D x`: one weight per channel if both sizes are equal, else a matrix."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.diagonal = input_size == output_size
        shape = (output_size,) if self.diagonal else (output_size, input_size)
        scale = 1.0 if self.diagonal else input_size**-0.5
        self.weight = nn.Parameter(torch.randn(shape) * scale)

    def forward(self, y: Float[Tensor, "*N O"], x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        return torch.addcmul(y, self.weight, x) if self.diagonal else y + F.linear(x, self.weight)


class GLU(nn.Module):
    """`a * s(b)` with `[a; b] = W gelu(y) + b0`: mixes channels after a recurrence."""

    def __init__(self, size: int, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate
        self.linear = Linear(size, 2 * size)

    def forward(self, y: Float[Tensor, "*N O"]) -> Float[Tensor, "*N O"]:
        return F.glu(self.linear(F.gelu(y, approximate=self.approximate)))


class GatedResidual(nn.Module):
    """`x + GLU(y)`, the end of a block; if the sizes differ, a matrix maps `x` to the output."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.glu = GLU(output_size, approximate="tanh")
        self.skip = linear_or_identity(input_size, output_size, bias=False)

    def forward(self, x: Float[Tensor, "*N I"], y: Float[Tensor, "*N O"]) -> Float[Tensor, "*N O"]:
        return self.skip(x) + self.glu(y)
