"""The diagonal linear recurrence."""

from __future__ import annotations

import torch
from torch import Tensor

from rlmem.kernels.linear_scan.ops import scan
from rlmem.kernels.linear_scan.reference import linear_scan_reference

__all__ = ["linear_scan", "linear_scan_reference"]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.complex128)
_DEVICES = ("cpu", "cuda", "meta")


def linear_scan(
    gate: Tensor,
    value: Tensor,
    h0: Tensor | None = None,
    start: Tensor | None = None,
    *,
    reverse: bool = False,
) -> Tensor:
    """`h[t] = gate[t] * (0 if start[t] else h[t-1]) + value[t]`, with `h[-1] = h0`; `h` [B, T, D].

    `value` is [B, T, D], `h0` [B, D] (zero if not given), `start` [B, T] bool. `gate` is [B, T, D]
    or, where it does not change with the input, [D]: that is never expanded, forward or backward.
    Any other shape that broadcasts to [B, T, D] is expanded. With `reverse` time runs from T-1 to
    0: `h[t] = gate[t] * (0 if start[t] else h[t+1]) + value[t]`, with `h[T] = h0`.

    At a start the gate and the state before are not read: what they hold, be it NaN, leaves no
    trace in `h` or in any gradient. float32, float64, bfloat16 (accumulated in float32), complex64
    and complex128; mixed dtypes are promoted as torch does. Differentiable in gate, value and h0,
    any number of times. A ValueError says what is wrong with the arguments.
    """
    _check(gate, value, h0, start)
    dtype = torch.promote_types(gate.dtype, value.dtype)
    if h0 is not None:
        dtype = torch.promote_types(dtype, h0.dtype)
        h0 = h0.to(dtype)
    return scan(_as_kernel_reads(gate, value).to(dtype), value.to(dtype), h0, start, reverse)


def _as_kernel_reads(gate: Tensor, value: Tensor) -> Tensor:
    """[D] where the gate changes neither with the row nor with time, else [B, T, D]."""
    if gate.shape[:-1].numel() == 1:
        return gate.reshape(-1).expand(value.shape[-1])
    return gate.expand(value.shape)


def _check(gate: Tensor, value: Tensor, h0: Tensor | None, start: Tensor | None) -> None:
    if value.dim() != 3 or 0 in value.shape:
        raise ValueError(
            f"linear_scan: value must be [B, T, D], each at least 1, not {list(value.shape)}"
        )
    rows, time, channels = value.shape
    named = {"gate": gate, "value": value} | ({} if h0 is None else {"h0": h0})
    for name, x in named.items():
        if x.dtype not in _DTYPES:
            allowed = ", ".join(str(d).removeprefix("torch.") for d in _DTYPES)
            raise ValueError(f"linear_scan: {name} is {x.dtype}; allowed are {allowed}")
    if h0 is not None and h0.shape != (rows, channels):
        raise ValueError(
            f"linear_scan: h0 must be [B, D] = {[rows, channels]}, not {list(h0.shape)}"
        )
    if start is not None:
        named["start"] = start
        if start.dtype != torch.bool or start.shape != (rows, time):
            raise ValueError(
                f"linear_scan: start must be [B, T] = {[rows, time]} of torch.bool, "
                f"not {list(start.shape)} of {start.dtype}"
            )
    wanted = [channels, 1], [time, 1], [rows, 1]
    if gate.dim() > 3 or any(n not in ok for n, ok in zip(gate.shape[::-1], wanted, strict=False)):
        raise ValueError(
            f"linear_scan: gate must be [D] = {[channels]} or broadcast to value's "
            f"{list(value.shape)}, not {list(gate.shape)}"
        )
    devices = {name: str(x.device) for name, x in named.items()}
    if len(set(devices.values())) > 1:
        raise ValueError(f"linear_scan: all tensors must be on one device, not {devices}")
    if value.device.type not in _DEVICES:
        raise ValueError(
            f"linear_scan: device {value.device} is not supported; allowed are "
            f"{', '.join(_DEVICES)}"
        )
