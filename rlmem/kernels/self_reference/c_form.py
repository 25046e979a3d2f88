"""The self-referential weight matrix on the CPU, in C: matrices split over threads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rlmem.kernels import native
from rlmem.kernels.native import check_shapes, check_tensors, same_dtype
from rlmem.kernels.self_reference.reference import RATES
from rlmem.kernels.self_reference.torch_form import CHUNK

_DTYPES = [torch.float32, torch.float64]


def supports(x: Tensor) -> bool:
    """Whether the C module was built, with this kernel, and supports this dtype."""
    built = native.AVAILABLE and hasattr(native.lib, "rlmem_self_reference_forward")
    return built and x.dtype in _DTYPES


def forward(
    x: Tensor, weight: Tensor, change: Tensor, start: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Same as `torch_form.forward`, but for the order of numbers in the matrices kept."""
    given = {"x": x, "weight": weight, "change": change, "start": start}
    shapes = _check(given)
    y, after, kept = (
        native.empty(torch.Size(shapes[name]), x.dtype) for name in ("y", "after", "kept")
    )
    results = {"y": y, "after": after, "kept": kept}
    _run(native.lib.rlmem_self_reference_forward, given, results, matrices=1, steps=1)
    return y, after, kept


def backward(
    grad_y: Tensor, grad_change: Tensor, x: Tensor, weight: Tensor, start: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Same as `torch_form.backward`."""
    given = {"x": x, "weight": weight, "start": start, "kept": kept}
    given |= {"grad_y": grad_y, "grad_after": grad_change}
    shapes = _check(given)
    grad_x, grad_first = (
        native.empty(torch.Size(shapes[name]), x.dtype) for name in ("x", "after")
    )
    grad_weight = native.empty(torch.Size(shapes["after"]), x.dtype)
    results = {"grad_x": grad_x, "grad_weight": grad_weight, "grad_change": grad_first}
    _run(native.lib.rlmem_self_reference_backward, given, results, CHUNK + 3, CHUNK)
    return grad_x, grad_weight.sum(0), grad_first


def _check(given: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Check every number that C relies on; returns the shapes of all tensors."""
    x, weight = given["x"], given["weight"]
    check_tensors("self_reference", given, same_dtype(x, _DTYPES), ["cpu"], given)
    if x.dim() != 4 or 0 in x.shape or weight.dim() != 3:
        raise ValueError(
            f"self_reference: x must be [B, T, H, D], each at least 1, and weight [H, R, D], not "
            f"{list(x.shape)} and {list(weight.shape)}"
        )
    rows, time, heads, size = x.shape
    outputs = max(weight.shape[1], 2 * size + RATES + 1)
    width, chunks = outputs - 2 * size - RATES, -(-time // CHUNK)
    whole, y = (rows, heads, outputs, size), (rows, time, heads, width)
    shapes: dict[str, tuple[int, ...]] = {"x": tuple(x.shape), "weight": whole[1:], "y": y}
    shapes |= {"change": whole, "after": whole, "grad_after": whole, "grad_y": y}
    shapes |= {"start": (rows, time), "kept": (rows, chunks, *whole[1:])}
    check_shapes("self_reference", {name: (each, shapes[name]) for name, each in given.items()})
    return shapes


def _run(
    function: Callable[[object], None],
    given: dict[str, Tensor],
    results: dict[str, Tensor],
    matrices: int,
    steps: int,
) -> None:
    """Call `function` in as many threads as useful, with scratch memory for each work item."""
    rows, time, heads, size = given["x"].shape
    outputs = given["weight"].shape[1]
    work = torch.Size((rows * heads, time, outputs * size))
    splits = native.work_splits(work, given["x"].itemsize)[0]
    scratch_size = matrices * outputs * size + (steps + 1) * (3 * size + RATES + 3 * outputs)
    scratch = native.empty(torch.Size((splits, scratch_size)), given["x"].dtype)
    tensors = {name: native.plain(each).contiguous() for name, each in given.items()}
    tensors |= results | {"scratch": scratch}
    fields = {
        "dtype": _DTYPES.index(given["x"].dtype),
        "time": time,
        "heads": heads,
        "size": size,
        "outputs": outputs,
        "width": outputs - 2 * size - RATES,
        "chunk": CHUNK,
        "rows": rows * heads,
        "row_splits": splits,
        "scratch_size": scratch_size,
    }
    fields |= {name: each.data_ptr() for name, each in tensors.items()}
    job = native.ffi.new("rlmem_self_reference *", fields)
    native.run(lambda: function(job), min(torch.get_num_threads(), splits))
