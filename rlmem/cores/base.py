"""The interface of a memory core: `step` for one time step and `scan` for a row of time steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial, wraps
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlmem import tree
from rlmem.cores.arguments import Rows, input_problem, row_count, state_problem
from rlmem.cores.segments import scan_in_segments
from rlmem.errors import UsageError, positive
from rlmem.kernels import Linear, linear_scan
from rlmem.registry import Registry

S = TypeVar("S")

HALF = (torch.float16, torch.bfloat16)


def any_precision(method: Callable[..., tuple[Tensor, Any]]) -> Callable[..., tuple[Tensor, Any]]:
    """Let a core's `method(self, x, ...)` take half-precision inputs and parameters.

    Half precision comes from autocast or from the parameters (`core.bfloat16()`). The second is
    turned into the first: a copy of the module with float32 parameters runs under autocast. So a
    core is written once, for float32 parameters and autocast, and its state is float32 in any case.

    The method then sees `x`, parameters and buffers in float32. It returns a pair; the first part,
    the output, gets the dtype of the parameters if that is a half precision.
    """

    @wraps(method)
    def call(self: nn.Module, x: Any, *rest: Any, **named: Any) -> tuple[Tensor, Any]:
        # The dictionary is much faster than the attribute.
        dtype = self._buffers["_anchor"].dtype  # type: ignore[union-attr]
        if x.dtype is dtype and (dtype is torch.float32 or dtype is torch.float64):
            return method(self, x, *rest, **named)
        who = f"{type(self).__name__}.{method.__name__}"
        if not x.is_floating_point() or (x.dtype == torch.float64) != (dtype == torch.float64):
            raise UsageError(f"{who}: x must have the parameters' dtype {dtype}, not {x.dtype}")
        if dtype not in HALF:
            return method(self, x.float(), *rest, **named)
        with _autocast(x.device.type, dtype):
            y, after = method(_in_float32(self), x.float(), *rest, **named)
        return y.to(dtype), after

    return call


def _autocast(device: str, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Autocast to `dtype`, unless the caller has chosen another one or the device has none."""
    if torch.is_autocast_enabled(device) or not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, dtype)


def _in_float32(module: nn.Module) -> nn.Module:
    """A copy of `module` with float32 parameters and buffers, connected to it by autograd.

    The module itself is not changed, so that other threads may use it.
    """
    copy = object.__new__(type(module))
    copy.__dict__.update(module.__dict__)
    for name in ("_parameters", "_buffers"):
        tensors = module.__dict__[name]
        copy.__dict__[name] = {
            key: x.float() if x is not None and x.dtype in HALF else x for key, x in tensors.items()
        }
    copy.__dict__["_modules"] = {
        key: None if part is None else _in_float32(part) for key, part in module._modules.items()
    }
    return copy


def check_inputs(core: nn.Module, method: str, x: Any, start: Any, dims: int) -> Rows:
    """The number of rows B, if `x` is [B, I] or [B, T, I] (`dims` 2 or 3) and `start` fits it.

    Otherwise a `UsageError`. `dims` counts the dimensions of `x`; `start` has all but the last.
    """
    anchor = core._buffers["_anchor"]
    device = anchor.device  # type: ignore[union-attr]
    try:
        shape = x.shape
        if (
            shape == (*start.shape, core.input_size)
            and len(shape) == dims
            and 0 not in shape
            and start.dtype is torch.bool
            and x.layout is start.layout is torch.strided
            and x.device == device == start.device
            and (x.dtype is anchor.dtype or x.is_floating_point())  # type: ignore[union-attr]
        ):
            return shape[0]
    except (AttributeError, TypeError, RuntimeError):
        pass  # no tensor, or a nested one, which has no shape
    raise input_problem(core, method, x, start, dims)


def check_state(
    core: nn.Module, method: str, state: Any, like: Any, rows: Rows | None = None
) -> None:
    """A `UsageError` unless `state` has the structure and tensors of `like`, or `rows` rows."""
    device = core._buffers["_anchor"].device  # type: ignore[union-attr]
    try:
        if _fits(state, like, rows, device):
            return
    except (AttributeError, TypeError, RuntimeError):
        pass
    raise state_problem(core, method, state, like, rows)


def _fits(state: Any, like: Any, rows: Rows | None, device: torch.device) -> bool:
    if isinstance(like, Tensor):
        return (
            state.shape == (like.shape if rows is None else (rows, *like.shape[1:]))
            and state.dtype is like.dtype
            and state.layout is torch.strided
            and state.device == device
        )
    if not isinstance(state, (tuple, list)) or len(state) != len(like):
        return False
    return all(_fits(*parts, rows, device) for parts in zip(state, like, strict=True))


def _checked_rows(initial_state: Callable[..., Any]) -> Callable[..., Any]:
    """A core's `initial_state`, after a check of the number of rows."""

    @wraps(initial_state)
    def call(self: MemoryCore[Any], batch_size: Any) -> Any:
        if not isinstance(batch_size, (int, torch.SymInt)) or batch_size < 0:
            batch_size = row_count(self, batch_size)
        return initial_state(self, batch_size)

    return call


def _checked_inputs(step: Callable[..., tuple[Tensor, Any]]) -> Callable[..., tuple[Tensor, Any]]:
    """`step`, after a check of `x` and `start`; `MemoryCore.step` itself checks the state."""

    @wraps(step)
    def call(self: MemoryCore[Any], x: Any, state: Any, start: Any) -> tuple[Tensor, Any]:
        check_inputs(self, "step", x, start, dims=2)
        return step(self, x, state, start)

    return call


def _checked_step(step: Callable[..., tuple[Tensor, Any]]) -> Callable[..., tuple[Tensor, Any]]:
    """A core's own `step`, after a check of all arguments."""

    @wraps(step)
    def call(self: MemoryCore[Any], x: Any, state: Any, start: Any) -> tuple[Tensor, Any]:
        rows = check_inputs(self, "step", x, start, dims=2)
        check_state(self, "step", state, self.initial_state(1), rows)
        return step(self, x, state, start)

    return call


def _checked_scan(
    scan: Callable[..., tuple[Tensor, Any]], segmented: bool = True
) -> Callable[..., tuple[Tensor, Any]]:
    """A core's `scan` for any precision, in segments, after a check of all arguments."""
    scan = any_precision(scan)

    @wraps(scan)
    def call(
        self: MemoryCore[Any], x: Any, state: Any, start: Any, *rest: Any
    ) -> tuple[Tensor, Any]:
        rows = check_inputs(self, "scan", x, start, dims=3)
        check_state(self, "scan", state, self.initial_state(1), rows)
        if segmented and (length := self.checkpoint_segments) and x.shape[1] > length:
            return scan_in_segments(partial(scan, self), x, state, start, length)
        return scan(self, x, state, start, *rest)

    return call


# Methods of cores, and the function that each is passed through.
_WRAPS: dict[str, Callable[..., Any]] = {
    "initial_state": _checked_rows,
    "update": any_precision,
    "step": _checked_step,
    "scan": _checked_scan,
    "scan_states": partial(_checked_scan, segmented=False),
}


class MemoryCore(nn.Module, ABC, Generic[S]):
    """A recurrent memory: maps `x` [B, I] and a state to an output [B, O] and the next state.

    `start[b, t]` is True if `x[b, t]` is the first observation of an episode: the initial state
    replaces the state *before* `x[b, t]` is read. A state is a Tensor or a (named) tuple of
    Tensors. Each of these tensors is a leaf of the state: [B, ...], float32 or complex64 (float64
    or complex128 with float64 parameters). That holds for half precision too, whether of inputs, of
    parameters or by autocast: only matrix products use it (`any_precision`).

    A subclass defines `update` and may define `scan`. Both get arguments of the right shapes, with
    B and T at least 1, and see inputs and parameters in float32 or float64.
    """

    # Guarantees that the tests check. A core that cannot give one sets it to False.
    forgets_nonfinite: bool = True  # a start also removes NaN and Inf from the state
    claims_length: bool = True  # state and outputs stay finite in rows of any length
    smooth: bool = True  # gradients in half precision are near those in float32

    # Steps after which `scan` keeps the state alone, and the backward pass computes the rest again.
    checkpoint_segments: int | None = None

    input_size: int
    output_size: int
    _anchor: Tensor

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, wrap in _WRAPS.items():
            if name in cls.__dict__:
                setattr(cls, name, wrap(cls.__dict__[name]))

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
        # The dictionary is much faster than the attribute.
        narrow = self._buffers["_anchor"].dtype is not torch.float64  # type: ignore[union-attr]
        return torch.float32 if narrow else torch.float64

    def zeros(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Zeros of `state_dtype` (or `dtype`) on the core's device."""
        anchor = self._buffers["_anchor"]
        assert anchor is not None
        return torch.zeros(shape, dtype=dtype or self.state_dtype, device=anchor.device)

    @abstractmethod
    def initial_state(self, batch_size: int) -> S:
        """The state before an episode's first observation, for `batch_size` rows."""

    @abstractmethod
    def update(self, x: Float[Tensor, "B I"], state: S) -> tuple[Float[Tensor, "B O"], S]:
        """One time step without resets: output and next state."""

    @_checked_inputs
    def step(
        self, x: Float[Tensor, "B I"], state: S, start: Bool[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B O"], S]:
        """One time step: reset the state of rows with `start`, then `update`.

        Raises `UsageError` for a wrong shape, dtype, device or layout.
        """
        first = self.initial_state(x.shape[0])
        check_state(self, "step", state, first)
        return self.update(x, tree.select(start, first, state))

    @_checked_scan
    def scan(
        self, x: Float[Tensor, "B T I"], state: S, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], S]:
        """A row of time steps: same result as `step` in a loop; cores override it to be faster.

        Raises `UsageError` for a wrong shape, dtype, device or layout.
        """
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
    return nn.Identity() if same else Linear(input_size, output_size, bias=bias)


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

    def scan_states(
        self,
        x: Float[Tensor, "B T I"],
        state: Tensor,
        start: Bool[Tensor, "B T"],
        loads: tuple[Bool[Tensor, "B T"], Tensor] | None = None,
    ) -> tuple[Float[Tensor, "B T O"], Tensor]:
        """The outputs of a row, and the state after each step, [B, T, D].

        `loads` is a mask [B, T] and states [B, T, D]. The mask selects some of the starts, none in
        the first step; there the row continues from the given state, not from the initial one.
        """
        gate, value = self.encode(x)
        if loads is not None:
            there, given = loads
            value = value + gate * torch.where(there[..., None], given, 0)
        h = linear_scan(gate, value, state, start)
        return self.decode(h, x), h

    def scan(
        self, x: Float[Tensor, "B T I"], state: Tensor, start: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T O"], Tensor]:
        y, h = self.scan_states(x, state, start)
        # A view would keep the memory of the whole row alive.
        return y, h[:, -1].clone()


registry: Registry[MemoryCore[Any]] = Registry("core", "rlmem.cores")
register = registry.register
