"""The linear scan on the CPU, in C: one pass over each row, rows split over threads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rlmem.kernels import native
from rlmem.kernels.native import check_shapes, check_tensors, same_dtype

_DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.complex128]

Grads = tuple[Tensor | None, Tensor | None, Tensor | None]


def forward(
    gate: Tensor, value: Tensor, h0: Tensor | None, start: Tensor | None, reverse: bool
) -> Tensor:
    """`h` [B, T, D]; arguments as in `linear_scan`, all of one dtype, gate [D] or [B, T, D]."""
    _check("value", value, {"gate": gate, "h0": h0, "start": start})
    h = native.empty(value.shape, value.dtype)
    inputs = {"gate": native.unit_stride(gate), "value": native.unit_stride(value)}
    rest = {"h0": native.contiguous(h0), "start": native.contiguous(start), "h": h}
    splits = native.work_splits(value.shape, value.itemsize)
    _run(native.lib.rlmem_linear_scan, value, splits, reverse, inputs, rest)
    return h


def backward(
    grad_h: Tensor,
    gate: Tensor,
    h: Tensor | None,
    h0: Tensor | None,
    start: Tensor | None,
    reverse: bool,
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> Grads:
    """Gradients for gate, value and h0, each only if `needs` asks for it.

    `h` and `h0` are read only for the gate's gradient and may be None if that is not needed.
    """
    _check("grad_h", grad_h, {"gate": gate, "h": h, "h0": h0, "start": start})
    need_gate, need_value, need_h0 = needs
    constant = need_gate and gate.dim() == 1
    rows, _, channels = grad_h.shape
    splits = native.work_splits(grad_h.shape, grad_h.itemsize)
    wide = torch.promote_types(grad_h.dtype, torch.float64)
    gate_sum = gate.new_zeros(splits[0] * splits[1], channels, dtype=wide) if constant else None
    grad_gate = native.empty(grad_h.shape, grad_h.dtype) if need_gate and not constant else None
    grad_value = native.empty(grad_h.shape, grad_h.dtype) if need_value else None
    grad_h0 = grad_h.new_empty(rows, channels) if need_h0 else None
    inputs = {"gate": native.unit_stride(gate), "grad_h": native.unit_stride(grad_h)}
    rest = {
        "h": native.contiguous(h) if need_gate else None,
        "h0": native.contiguous(h0) if need_gate else None,
        "start": native.contiguous(start),
        "gate_sum": gate_sum,
        "grad_gate": grad_gate,
        "grad_value": grad_value,
        "grad_h0": grad_h0,
    }
    _run(native.lib.rlmem_linear_scan_backward, grad_h, splits, reverse, inputs, rest)
    if gate_sum is not None:
        grad_gate = gate_sum.sum(0).to(grad_h.dtype)
    return grad_gate, grad_value, grad_h0


def _check(name: str, row: Tensor, rest: dict[str, Tensor | None]) -> None:
    """Check every number that C relies on; `row` [B, T, D] is the value or the gradient of h."""
    given = {name: row} | rest
    check_tensors("linear_scan", given, same_dtype(row, _DTYPES), ["cpu"], [name, "gate"])
    if row.dim() != 3 or 0 in row.shape:
        raise ValueError(
            f"linear_scan: {name} must be [B, T, D], each at least 1, not {list(row.shape)}"
        )
    rows, time, channels = row.shape
    shapes = {"h": row.shape, "h0": (rows, channels), "start": (rows, time)}
    gate = rest["gate"]
    shapes["gate"] = (channels,) if gate is not None and gate.dim() == 1 else row.shape
    check_shapes("linear_scan", {key: (x, shapes[key]) for key, x in rest.items()})


def _run(
    function: Callable[[object], None],
    like: Tensor,
    splits: tuple[int, int],
    reverse: bool,
    strided: dict[str, Tensor],
    contiguous: dict[str, Tensor | None],
) -> None:
    """Call `function` in as many threads as useful; the dicts keep the tensors alive."""
    rows, time, channels = like.shape
    fields = {
        "dtype": _DTYPES.index(like.dtype),
        "reverse": reverse,
        "time": time,
        "channels": channels,
        "rows": rows,
        "row_splits": splits[0],
        "channel_splits": splits[1],
    }
    for name, x in strided.items():
        fields[name] = x.data_ptr()
        row, step = (0, 0) if x.dim() == 1 else x.stride()[:2]
        fields |= {f"{name}_row": row, f"{name}_time": step}
    fields |= {name: x.data_ptr() for name, x in contiguous.items() if x is not None}
    scan = native.ffi.new("rlmem_scan *", fields)
    native.run(lambda: function(scan), min(torch.get_num_threads(), splits[0] * splits[1]))
