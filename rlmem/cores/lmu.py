"""Legendre memory unit (Voelker et al. 2019), and HiPPO-LegS (Gu et al. 2020, arXiv 2008.07669).

    u = W_u x + b_u,   m' = A' m + B' u,   y = gelu(W_m m' + W_x x + b)

`m` holds N = `order` Legendre coefficients of each of C = `channels` signals u:

- legt approximates u over the last `theta` steps, with A and B of Voelker et al., equations 1 and
  2, discretised by zero-order hold;
- legs approximates u since the episode's start, with A / t and B / t in step t of the episode,
  discretised by the bilinear rule as in the authors' code.

Voelker's u also reads the last output and memory. Without that, the recurrence is linear and its
steps are parallel (Chilkuri and Eliasmith 2021, arXiv 2102.11417).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.cores.base import MemoryCore, register
from rlmem.cores.hippo import legs
from rlmem.errors import UsageError, positive, unknown
from rlmem.kernels import Linear, linear_scan
from rlmem.kernels.episodes import ages

CHUNK = 16  # steps that `SlidingWindow` computes at once


class LMUState(NamedTuple):
    """Coefficients `m` [B, N, C], and the number of past steps of the episode, [B] int64."""

    m: Tensor
    age: Tensor


class Constants(nn.Module):
    """Fixed float64 matrices as buffers, float32 unless the module becomes float64.

    Every change of dtype converts them from float64 again, so that no rounding remains.
    """

    def __init__(self, **exact: Tensor) -> None:
        super().__init__()
        self._exact = exact
        for name, matrix in exact.items():
            self.register_buffer(name, matrix.to(torch.get_default_dtype()), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        for name, matrix in self._exact.items():
            now = self.get_buffer(name)
            dtype = torch.float64 if now.dtype == torch.float64 else torch.float32
            setattr(self, name, matrix.to(now.device, dtype))
        return self


def legt(order: int) -> tuple[Tensor, Tensor]:
    """A [N, N] and B [N] of the sliding window before the division by theta, float64."""
    n = torch.arange(order, dtype=torch.float64)
    sign = (-1.0) ** (n[:, None] - n + 1)
    A = (2 * n + 1)[:, None] * torch.where(n[:, None] < n, -1.0, sign)
    return A, (2 * n + 1) * (-1.0) ** n


class SlidingWindow(Constants):
    """legt: m' = A m + B u with the discretised A [N, N] and B [N].

    A row is computed in chunks. Within a chunk, m is a convolution of u with the response A^j B.
    Diagonalisation would be faster, but A's eigenvectors are nearly parallel: with 16 coefficients
    their condition number is 1e8.
    """

    A: Tensor
    B: Tensor
    response: Tensor  # [L, N, L]: A^(t-s) B for each step t and each s <= t of a chunk
    powers: Tensor  # [L, N, N]: A^(t+1)

    def __init__(self, order: int, theta: float) -> None:
        A, B = legt(order)
        step = torch.linalg.matrix_exp(A / theta)
        B = torch.linalg.solve(A, step @ B - B)
        powers = [step]
        for _ in range(CHUNK - 1):
            powers.append(step @ powers[-1])
        decays = torch.stack([B, *(power @ B for power in powers[:-1])])
        response = torch.zeros(CHUNK, order, CHUNK, dtype=B.dtype)
        for s in range(CHUNK):
            response[s:, :, s] = decays[: CHUNK - s]
        super().__init__(A=step, B=B, response=response, powers=torch.stack(powers))

    def step(self, u: Tensor, m: Tensor, age: Tensor) -> Tensor:
        """The next coefficients [B, N, C]; `u` is [B, C]."""
        return self.A @ m + self.B[:, None] * u[:, None]

    def scan(self, u: Tensor, m: Tensor, age: Tensor, start: Tensor) -> Tensor:
        """The coefficients after each step of a row, [B, T, N, C]; `u` is [B, T, C]."""
        time = u.shape[1]
        size = min(CHUNK, time)
        pad = -time % size
        u = F.pad(u, (0, 0, 0, pad)).unflatten(1, (-1, size))
        starts = F.pad(start, (0, pad)).unflatten(1, (-1, size)).cumsum(-1)
        same = starts[..., :, None] == starts[..., None, :]
        response = torch.where(same[..., None, :], self.response[:size, :, :size], 0)
        local = (response.flatten(2, 3) @ u).unflatten(2, (size, -1))
        # Steps of a chunk before its first start continue the chunk before.
        reached = (starts == 0)[..., None, None]
        powers, before = self.powers[:size], []
        # `unbind`, because the backward of an index writes the whole tensor once for each chunk.
        ends = zip(local[:, :, -1].unbind(1), reached[:, :, -1].unbind(1), strict=True)
        for end, continued in ends:
            before.append(m)
            m = end + torch.where(continued, powers[-1] @ m, 0)
        carried = powers.flatten(0, 1) @ torch.stack(before, dim=1)
        all_steps = local + torch.where(reached, carried.unflatten(2, (size, -1)), 0)
        return all_steps.flatten(1, 2)[:, :time]


class History(Constants):
    """legs: (I - A / 2t) m' = (I + A / 2t) m + B u / t.

    A is triangular. So over a row, each coefficient is a scalar recurrence, once those of lower
    degree are known.
    """

    A: Tensor
    B: Tensor

    def __init__(self, order: int) -> None:
        matrices = legs(order)
        super().__init__(A=matrices.A, B=matrices.B)

    def step(self, u: Tensor, m: Tensor, age: Tensor) -> Tensor:
        """The next coefficients [B, N, C]; `u` is [B, C]."""
        t = (age + 1).to(u.dtype)[:, None, None]
        half = self.A / (2 * t)
        one = torch.eye(len(self.B), dtype=u.dtype, device=u.device)
        right = m + half @ m + self.B[:, None] * u[:, None] / t
        return torch.linalg.solve_triangular(one - half, right, upper=False)

    def scan(self, u: Tensor, m: Tensor, age: Tensor, start: Tensor) -> Tensor:
        """The coefficients after each step of a row, [B, T, N, C]; `u` is [B, T, C]."""
        t = (ages(age, start) + 1).to(u.dtype)[..., None]
        # B[n] B[j] = -A[n, j] for j < n: `lower` is the sum of B[j] m[j] before and after a step.
        lower, columns = torch.zeros_like(u), []
        for n, b in enumerate(self.B.unbind()):
            a = (n + 1) / (2 * t)
            value = b / t * (u - lower / 2) / (1 + a)
            column = linear_scan(((1 - a) / (1 + a)).expand(u.shape), value, m[:, n], start)
            before = torch.cat([m[:, n : n + 1], column[:, :-1]], dim=1)
            lower = lower + b * (column + torch.where(start[..., None], 0, before))
            columns.append(column)
        return torch.stack(columns, dim=2)


@register("lmu")
class LMU(MemoryCore[LMUState]):
    """LMU: Legendre memory, polynomials fitted to the past (Voelker et al. 2019, Gu et al. 2020).

    `hippo` is legt, a sliding window of `theta` steps, or legs, the whole episode.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        hippo: str = "legt",
        channels: int = 16,
        order: int = 16,
        theta: float = 32.0,
    ) -> None:
        super().__init__(input_size, output_size)
        self.channels, self.order = positive("channels", channels), positive("order", order)
        if not theta > 0:
            raise UsageError(f"theta must be positive, not {theta}")
        if hippo not in ("legt", "legs"):
            raise unknown("hippo", hippo, ("legt", "legs"))
        # 0 times NaN is NaN in the sliding window's matrix products.
        self.forgets_nonfinite = hippo == "legs"
        self.memory = SlidingWindow(order, theta) if hippo == "legt" else History(order)
        self.W_u = Linear(self.input_size, channels)
        self.W_m = Linear(order * channels, self.output_size, bias=False)
        self.W_x = Linear(self.input_size, self.output_size)

    def initial_state(self, batch_size: int) -> LMUState:
        m = self.zeros(batch_size, self.order, self.channels)
        return LMUState(m, self.zeros(batch_size, dtype=torch.int64))

    def update(
        self, x: Float[Tensor, "B I"], state: LMUState
    ) -> tuple[Float[Tensor, "B O"], LMUState]:
        u = self.W_u(x).to(self.state_dtype)
        with torch.autocast(u.device.type, enabled=False):
            m = self.memory.step(u, state.m, state.age)
        return self._output(m, x), LMUState(m, state.age + 1)

    def scan(
        self, x: Float[Tensor, "B T I"], state: LMUState, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], LMUState]:
        u = self.W_u(x).to(self.state_dtype)
        with torch.autocast(u.device.type, enabled=False):
            m = self.memory.scan(u, state.m, state.age, start)
        age: Int[Tensor, "B"] = ages(state.age, start)[:, -1] + 1
        return self._output(m, x), LMUState(m[:, -1].clone(), age)

    def _output(self, m: Float[Tensor, "*N D C"], x: Float[Tensor, "*N I"]) -> Tensor:
        return F.gelu(self.W_m(m.flatten(-2)) + self.W_x(x))
