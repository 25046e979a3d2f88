"""The contract of a memory core: one time step (`step`) and a row of them (`scan`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlmem import tree
from rlmem.errors import positive
from rlmem.kernels import linear_scan
from rlmem.registry import Registry

S = TypeVar("S")


class MemoryCore(nn.Module, ABC, Generic[S]):
    """A memory: reads `x` [B, I] and a state, gives an output [B, O] and the next state.

    `start[b, t]` says that `x[b, t]` is the first observation of an episode: the state is replaced
    by the initial one *before* `x[b, t]` is read. A state is a Tensor or a (named) tuple of them,
    every leaf [B, ...], float32 or complex64 (64/128 where the parameters are float64).
    """

    # Claims that the tests hold a core to; one that cannot keep them says False.
    forgets_nonfinite: bool = True  # not even a NaN or Inf passes a start
    claims_length: bool = True  # state and outputs are finite in rows of any length

    input_size: int
    output_size: int
    _anchor: Tensor

    def __init__(self, input_size: int, output_size: int | None = None) -> None:
        super().__init__()
        self.input_size = positive("input_size", input_size)
        self.output_size = positive(
            "output_size", input_size if output_size is None else output_size
        )
        # Knows device and dtype also where a core has no parameters.
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

    @property
    def state_dtype(self) -> torch.dtype:
        """Real dtype of the state: float64 under float64 parameters, else float32."""
        return torch.float64 if self._anchor.dtype == torch.float64 else torch.float32

    def zeros(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Zeros of `state_dtype` (or `dtype`) where this core lives."""
        return torch.zeros(shape, dtype=dtype or self.state_dtype, device=self._anchor.device)

    @abstractmethod
    def initial_state(self, batch_size: int) -> S:
        """The state before an episode's first observation, for `batch_size` rows."""

    @abstractmethod
    def update(self, x: Float[Tensor, "B I"], state: S) -> tuple[Float[Tensor, "B O"], S]:
        """One time step that knows nothing of resets."""

    def step(
        self, x: Float[Tensor, "B I"], state: S, start: Bool[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B O"], S]:
        """One time step: where `start`, forget; then read `x`."""
        return self.update(x, tree.select(start, self.initial_state(x.shape[0]), state))

    def scan(
        self, x: Float[Tensor, "B T I"], state: S, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], S]:
        """A row of time steps: the fold of `step`, by whatever is fastest."""
        outputs = []
        for x_t, start_t in zip(x.unbind(1), start.unbind(1), strict=True):
            y, state = self.step(x_t, state, start_t)
            outputs.append(y)
        return torch.stack(outputs, dim=1), state

    def extra_repr(self) -> str:
        return f"input_size={self.input_size}, output_size={self.output_size}"


def fitted(input_size: int, output_size: int, bias: bool = True) -> nn.Module:
    """A linear map to another width; nothing where the widths are the same."""
    same = input_size == output_size
    return nn.Identity() if same else nn.Linear(input_size, output_size, bias=bias)


class LinearCore(MemoryCore[Tensor]):
    """A diagonal recurrence `h[t] = gate[t] * h[t-1] + value[t]` between two maps without memory.

    `gate` may have fewer dimensions than `value` ([D] where it does not depend on `x`).
    """

    state_size: int
    complex_state: bool = False

    @abstractmethod
    def encode(self, x: Float[Tensor, "*N I"]) -> tuple[Tensor, Tensor]:
        """`gate` ([D] or [*N, D]) and `value` [*N, D] from the input."""

    @abstractmethod
    def decode(self, h: Tensor, x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        """The output from the states [*N, D] and the input."""

    def initial_state(self, batch_size: int) -> Tensor:
        dtype = self.state_dtype
        if self.complex_state:
            # Not `to_complex`, which torch.compile cannot trace.
            dtype = torch.promote_types(dtype, torch.complex64)
        return self.zeros(batch_size, self.state_size, dtype=dtype)

    def update(self, x: Float[Tensor, "B I"], state: Tensor) -> tuple[Float[Tensor, "B O"], Tensor]:
        gate, value = self.encode(x)
        h = gate * state + value
        return self.decode(h, x), h

    def states(
        self,
        x: Float[Tensor, "B T I"],
        state: Tensor,
        start: Bool[Tensor, "B T"],
        loads: tuple[Bool[Tensor, "B T"], Tensor] | None = None,
    ) -> Tensor:
        """The state after each step of a row, [B, T, D].

        `loads` are some of the starts, after the first step, and states [B, T, D]: there a row goes
        on from the state that is given, instead of the initial one.
        """
        gate, value = self.encode(x)
        if loads is not None:
            there, given = loads
            value = value + gate * torch.where(there[..., None], given, 0)
        return linear_scan(gate, value, state, start)

    def scan(
        self, x: Float[Tensor, "B T I"], state: Tensor, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], Tensor]:
        h = self.states(x, state, start)
        # A copy, so that a state kept for the next row does not keep this whole row alive.
        return self.decode(h, x), h[:, -1].clone()


registry: Registry[MemoryCore[Any]] = Registry("core", "rlmem.cores")
register = registry.register
