"""Base class of minGRU and minLSTM (Feng et al. 2024, arXiv 2410.01201).

Gates do not depend on the state. A short convolution precedes the recurrence, as in the paper's
language models (Conv4, then the minimal RNN).
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlmem.cores.base import MemoryCore
from rlmem.cores.conv import ConvState, ShortConv
from rlmem.cores.gate_range import check_range, stretch
from rlmem.cores.over_ranks import diagonal_ends, window_ends
from rlmem.errors import UsageError
from rlmem.kernels import Linear, linear_scan


class MinRNN(MemoryCore[ConvState]):
    """`h[t] = gate h[t-1] + value`, with gate and value functions of `u` alone; outputs `h` [B, O].

    `u` is `x` after a causal convolution over `conv_size` steps (1: none). Without it, one layer
    can hardly represent the order of recent inputs, because its gates see one input at a time.

    `gate` is the range of the gate: positive (the papers' g), signed (2 g - 1), or complex. Then
    the gate is `a = g exp(i theta)` and the value `(1 - a) c`, with theta and the imaginary part of
    c from further linear maps of `u`; the output is the real part of `h`. As in the papers, `c` is
    the fixed point of a step: it moves `h` towards c and turns it around c. With |a| = 1 the turn
    loses nothing, and a state of 0 need not stay 0.
    """

    parts: int

    def __init__(
        self,
        input_size: int,
        output_size: int | None = None,
        *,
        conv_size: int = 4,
        positive: bool = False,
        bias: bool = True,
        gate: str = "positive",
    ) -> None:
        super().__init__(input_size, output_size)
        self.positive = positive
        self.gate = check_range(gate)
        if positive and gate != "positive":
            raise UsageError(f"positive=true needs gate=positive, not {gate}")
        self.conv = ShortConv(self.input_size, conv_size)
        self.maps = self.parts + 2 * (gate == "complex")
        self.linear = Linear(self.input_size, self.maps * self.output_size, bias=bias)

    @abstractmethod
    def gates(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """`gate` in [0, 1] and `1 - gate`, from the linear map's outputs after the first."""

    def initial_state(self, batch_size: int) -> ConvState:
        window = self.zeros(batch_size, self.conv.size - 1, self.input_size)
        dtype = self.state_dtype
        if self.gate == "complex":
            dtype = torch.promote_types(dtype, torch.complex64)
        return ConvState(window, self.zeros(batch_size, self.output_size, dtype=dtype))

    def update(
        self, x: Float[Tensor, "B I"], state: ConvState
    ) -> tuple[Float[Tensor, "B O"], ConvState]:
        u, window = self.conv.step(x, state.window)
        gate, value = self._encode(u)
        h = gate * state.h + value
        return self._output(h), ConvState(window, h)

    def scan(
        self, x: Float[Tensor, "B T I"], state: ConvState, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], ConvState]:
        u, window = self.conv.scan(x, state.window, start)
        gate, value = self._encode(u)
        h = linear_scan(gate, value, state.h, start)
        return self._output(h), ConvState(window, h[:, -1].clone())

    def ends_over_ranks(
        self, x: Float[Tensor, "B T I"], state: ConvState, start: Bool[Tensor, "B T"]
    ) -> tuple[ConvState, ConvState]:
        """For `scan_over_ranks`: the states before this rank's piece and after the whole row."""
        window, last_window = window_ends(x, state.window, start)
        gate, value = self._encode(self.conv.scan(x, window, start)[0])
        h, last = diagonal_ends(gate, value, state.h, start)
        return ConvState(window, h), ConvState(last_window, last)

    def _encode(self, u: Float[Tensor, "*N I"]) -> tuple[Tensor, Tensor]:
        c, *parts = self.linear(u).to(self.state_dtype).chunk(self.maps, dim=-1)
        gate, write = self.gates(tuple(parts[: self.parts - 1]))
        if self.gate == "complex":
            angle, imaginary = parts[self.parts - 1 :]
            turn = torch.polar(gate, angle)
            return turn, (1 - turn) * torch.complex(c, imaginary)
        return stretch(gate, self.gate), write * (keep_positive(c) if self.positive else c)

    def _output(self, h: Tensor) -> Tensor:
        return h.real if self.gate == "complex" else h


def keep_positive(c: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """g(c) = c + 1/2 for c >= 0, s(c) below: continuous and positive (appendix B)."""
    return torch.where(c >= 0, c + 0.5, torch.sigmoid(c))
