"""Stable Hadamard memory (Le et al., ICLR 2025, arXiv 2410.10132): a calibrated matrix memory.

    u = g rms(x),   k, q = relu(W_k u')^2, relu(W_q u')^2, each / its sum,   u' = u + s clock(age)
    C = 1 + tanh(theta_l (W_c u)^T)               one factor near 1 for each entry, [S, S]
    M' = M * C + sigmoid(w_eta u) (W_v u) k^T     elementwise
    out = W_out (rms(S M' q) + W_s u + b_s) + b

theta_l is one of L learned rows, drawn at random in each step: factors of many steps are then
nearly independent, and their product stays near 1 in expectation. Positive keys with sum 1 and the
path around the memory follow the authors' code. (Its draw truncates a number below 1, which is
always row 0.)

Here the draw depends on the number of past steps of the episode alone: it is entry `age % 1024` of
`draws`, a random table that is saved with the weights. So an agent that acts step by step draws the
same rows as the training on whole rows, and a loaded agent draws the same as the saved one.

The authors add sinusoids of the time to all inputs, with periods of 6 to 63,000 steps. Here only
keys and queries have them, with periods of 2 to 60 steps: as the memory hardly forgets, keys must
tell neighbouring steps apart, and elsewhere a clock lets an agent fit the noise of its rewards by
the time. Both root-mean-square norms and the squares are ours too. Without these changes, an agent
learns RepeatPrevious slowly.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.cores.base import MemoryCore, register
from rlmem.errors import positive
from rlmem.kernels import Linear, linear_scan
from rlmem.kernels.episodes import ages

TABLE = 1024  # steps after which the draws repeat


class SHMState(NamedTuple):
    """The memory `M` [B, S, S], and the number of past steps of the episode, [B] int64."""

    M: Tensor
    age: Tensor


class Access(NamedTuple):
    """A step's calibration `C` and `written`, both [*N, S, S], its query and its skip [*N, S]."""

    C: Tensor
    written: Tensor
    query: Tensor
    skip: Tensor


def shares(x: Float[Tensor, "*N S"]) -> Float[Tensor, "*N S"]:
    """The squares of the positive parts of `x`, divided by their sum."""
    x = torch.relu(x).square()
    return x / (x.sum(-1, keepdim=True) + 1e-5)


def clock(age: Int[Tensor, "*N"], size: int) -> Float[Tensor, "*N size"]:
    """Sines and cosines of the age, float64, with periods from 2 to 60 steps."""
    place = torch.arange(0, size, 2, device=age.device, dtype=torch.float64)
    angle = age[..., None] * (math.pi * 30 ** (-place / size))
    return torch.cat([angle.sin(), angle.cos()], dim=-1)[..., :size]


@register("shm")
class SHM(MemoryCore[SHMState]):
    """SHM: a matrix memory whose entries are calibrated by random rows (Le et al. 2025).

    The memory has S = `memory_size` rows and columns; `rows` is L. `scan` needs S^2 numbers for
    each step of a row. Factors may reach 2, so there is no bound on M in rows of any length.
    """

    claims_length = False
    draws: Tensor

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        memory_size: int = 32,
        rows: int = 128,
    ) -> None:
        super().__init__(input_size, output_size)
        size = self.size = positive("memory_size", memory_size)
        self.norm = nn.RMSNorm(self.input_size, eps=1e-5)
        self.strength = nn.Parameter(torch.tensor(2.0))
        self.W_k, self.W_q, self.W_v, self.W_c = (
            Linear(self.input_size, size, bias=False) for _ in range(4)
        )
        self.w_eta = Linear(self.input_size, 1, bias=False)
        self.theta = nn.Parameter(torch.empty(positive("rows", rows), size))
        nn.init.xavier_uniform_(self.theta, gain=0.5)
        self.register_buffer("draws", torch.randint(rows, (TABLE,)))
        self.skip = Linear(self.input_size, size)
        self.W_out = Linear(size, self.output_size)

    def initial_state(self, batch_size: int) -> SHMState:
        M = self.zeros(batch_size, self.size, self.size)
        return SHMState(M, self.zeros(batch_size, dtype=torch.int64))

    def update(
        self, x: Float[Tensor, "B I"], state: SHMState
    ) -> tuple[Float[Tensor, "B O"], SHMState]:
        access = self._access(x, state.age)
        M = state.M * access.C + access.written
        return self._read(M, access), SHMState(M, state.age + 1)

    def scan(
        self, x: Float[Tensor, "B T I"], state: SHMState, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], SHMState]:
        age = ages(state.age, start)
        access = self._access(x, age)
        gate, value = access.C.flatten(-2), access.written.flatten(-2)
        entries = linear_scan(gate, value, state.M.flatten(1), start)
        M = entries.unflatten(-1, (self.size, -1))
        return self._read(M, access), SHMState(M[:, -1].clone(), age[:, -1] + 1)

    def _access(self, x: Float[Tensor, "*N I"], age: Int[Tensor, "*N"]) -> Access:
        x = self.norm(x)
        timed = x + self.strength * clock(age, self.input_size).to(x.dtype)
        k, q = (W(timed).to(self.state_dtype) for W in (self.W_k, self.W_q))
        v, c, eta = (W(x).to(self.state_dtype) for W in (self.W_v, self.W_c, self.w_eta))
        theta = self.theta[self.draws[age % TABLE]]
        C = 1 + torch.tanh(theta[..., :, None] * c[..., None, :])
        written = (eta.sigmoid() * v)[..., :, None] * shares(k)[..., None, :]
        return Access(C, written, shares(q), self.skip(x))

    def _read(self, M: Float[Tensor, "*N S S"], access: Access) -> Float[Tensor, "*N O"]:
        reading = self.size * (M * access.query[..., None, :]).sum(-1)
        return self.W_out(F.rms_norm(reading, (self.size,), eps=1e-5) + access.skip)
