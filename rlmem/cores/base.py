"""The interface of a memory core: `step` for one time step and `scan` for a row of time steps."""

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
    """A recurrent memory: maps `x` [B, I] and a state to an output [B, O] and the next state.

    `start[b, t]` is True if `x[b, t]` is the first observation of an episode: the initial state
    replaces the state *before* `x[b, t]` is read. A state is a Tensor or a (named) tuple of
    Tensors. Each of these tensors is a leaf of the state: [B, ...], float32 or complex64 (float64
    or complex128 with float64 parameters).
    """

    # Guarantees that the tests check. A core that cannot give one sets it to False.
    forgets_nonfinite: bool = True  # a start also removes NaN and Inf from the state
    claims_length: bool = True  # state and outputs stay finite in rows of any length

    input_size: int
    output_size: int
    _anchor: Tensor

    def __init__(self, input_size: int, output_size: int | None = None) -> None:
        super().__init__()
        self.input_size = positive("input_size", input_size)
        self.output_size = positive(
            "output_size", input_size if output_size is None else output_size
        )
        # Tracks device and dtype, also of a core without parameters.
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

    @property
    def state_dtype(self) -> torch.dtype:
        """Real dtype of the state: float64 if the parameters are float64, else float32."""
        return torch.float64 if self._anchor.dtype == torch.float64 else torch.float32

    def zeros(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Zeros of `state_dtype` (or `dtype`) on the core's device."""
        return torch.zeros(shape, dtype=dtype or self.state_dtype, device=self._anchor.device)

    @abstractmethod
    def initial_state(self, batch_size: int) -> S:
        """The state before an episode's first observation, for `batch_size` rows."""

    @abstractmethod
    def update(self, x: Float[Tensor, "B I"], state: S) -> tuple[Float[Tensor, "B O"], S]:
        """One time step without resets: output and next state."""

    def step(
        self, x: Float[Tensor, "B I"], state: S, start: Bool[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B O"], S]:
        """One time step: reset the state of rows with `start`, then `update`."""
        return self.update(x, tree.select(start, self.initial_state(x.shape[0]), state))

    def scan(
        self, x: Float[Tensor, "B T I"], state: S, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], S]:
        """A row of time steps: same result as `step` in a loop; cores override it to be faster."""
        outputs = []
        for x_t, start_t in zip(x.unbind(1), start.unbind(1), strict=True):
            y, state = self.step(x_t, state, start_t)
            outputs.append(y)
        return torch.stack(outputs, dim=1), state

    def extra_repr(self) -> str:
        return f"input_size={self.input_size}, output_size={self.output_size}"


def linear_or_identity(input_size: int, output_size: int, bias: bool = True) -> nn.Module:
    """A linear map between different widths; the identity if both widths are equal."""
    same = input_size == output_size
    return nn.Identity() if same else nn.Linear(input_size, output_size, bias=bias)


class LinearCore(MemoryCore[Tensor]):
    """A diagonal linear recurrence `h[t] = gate[t] * h[t-1] + value[t]`.

    `encode` computes gate and value from the input, `decode` the output from `h`; neither has
    memory. `gate` may have fewer dimensions than `value` ([D] if it does not depend on `x`).
    """

    state_size: int
    complex_state: bool = False

    @abstractmethod
    def encode(self, x: Float[Tensor, "*N I"]) -> tuple[Tensor, Tensor]:
        """The `gate` ([D] or [*N, D]) and the `value` [*N, D] of an input."""

    @abstractmethod
    def decode(self, h: Tensor, x: Float[Tensor, "*N I"]) -> Float[Tensor, "*N O"]:
        """The output for states [*N, D] and inputs."""

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

        `loads` is a mask [B, T] and states [B, T, D]. The mask selects some of the starts, none in
        the first step; there the row continues from the given state, not from the initial one.
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
        # A view would keep the memory of the whole row alive.
        return self.decode(h, x), h[:, -1].clone()


registry: Registry[MemoryCore[Any]] = Registry("core", "rlmem.cores")
register = registry.register
