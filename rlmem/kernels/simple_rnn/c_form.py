"""Cells with diagonal recurrent weights on the CPU, in C: one pass over each row and channel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rlmem.kernels import native
from rlmem.kernels.native import check_shapes, check_tensors, same_dtype
from rlmem.kernels.simple_rnn.cells import CELLS

_DTYPES = [torch.float32, torch.float64]
_CELLS = ["paragru", "paralstm"]


def supports(cell: str, x: Tensor) -> bool:
    """Whether the C module was built, with this kernel, and supports this cell and dtype."""
    built = native.AVAILABLE and hasattr(native.lib, "rlmem_diagonal_rnn_forward")
    return built and cell in _CELLS and x.dtype in _DTYPES


def forward(
    cell: str, projected: Tensor, weight: Tensor, state: Tensor, start: Tensor, scale: float
) -> Tensor:
    """Same as `torch_form.forward`."""
    given = {"projected": projected, "weight": weight, "state": state, "start": start}
    shapes = _check(cell, given)
    states = native.empty(shapes["states"], projected.dtype)
    _run(native.lib.rlmem_diagonal_rnn_forward, cell, given | {"states": states})
    return states


def backward(
    cell: str,
    grad: Tensor,
    projected: Tensor,
    weight: Tensor,
    state: Tensor,
    start: Tensor,
    states: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Same as `torch_form.backward`."""
    given = {"grad": grad, "projected": projected, "weight": weight}
    given |= {"state": state, "start": start, "states": states}
    shapes = _check(cell, given)
    splits = _splits(cell, states)
    sums = weight.new_zeros(splits[0] * splits[1], len(weight), dtype=torch.float64)
    grad_projected = native.empty(shapes["projected"], projected.dtype)
    grad_state = state.new_empty(state.shape)
    results = {"grad_projected": grad_projected, "grad_state": grad_state, "sums": sums}
    _run(native.lib.rlmem_diagonal_rnn_backward, cell, given | results)
    return grad_projected, sums.sum(0).to(weight.dtype), grad_state


def _splits(cell: str, states: Tensor) -> tuple[int, int]:
    rows, time, total = states.shape
    shape = torch.Size((rows, time, total // CELLS[cell].states))
    return native.work_splits(shape, states.itemsize)


def _check(cell: str, given: dict[str, Tensor]) -> dict[str, torch.Size]:
    """Check every number that C relies on; returns the shapes of all tensors."""
    if cell not in _CELLS:
        raise ValueError(f"simple_rnn: cell must be one of {_CELLS} in C, not {cell!r}")
    kind, x = CELLS[cell], given["projected"]
    check_tensors("simple_rnn", given, same_dtype(x, _DTYPES), ["cpu"], given)
    if x.dim() != 3 or 0 in x.shape or x.shape[2] % kind.parts:
        wanted = f"[B, T, {kind.parts} D], each at least 1"
        raise ValueError(f"simple_rnn: projected must be {wanted}, not {list(x.shape)}")
    rows, time, total = x.shape
    width = total // kind.parts
    wide = {"projected": x.shape, "start": (rows, time), "weight": (kind.diagonals * width,)}
    wide |= {"state": (rows, kind.states * width)}
    wide |= dict.fromkeys(("states", "grad"), (rows, time, kind.states * width))
    shapes = {name: torch.Size(shape) for name, shape in wide.items()}
    check_shapes("simple_rnn", {name: (each, shapes[name]) for name, each in given.items()})
    return shapes


def _run(function: Callable[[object], None], cell: str, tensors: dict[str, Tensor]) -> None:
    """Call `function` in as many threads as useful; the dicts keep the tensors alive."""
    states = tensors["states"]
    splits = _splits(cell, states)
    # Results are contiguous: they stay the same tensors.
    tensors = {name: native.plain(each).contiguous() for name, each in tensors.items()}
    fields = {
        "dtype": _DTYPES.index(states.dtype),
        "cell": _CELLS.index(cell),
        "time": states.shape[1],
        "channels": states.shape[2] // CELLS[cell].states,
        "rows": states.shape[0],
        "row_splits": splits[0],
        "channel_splits": splits[1],
    }
    fields |= {name: each.data_ptr() for name, each in tensors.items()}
    job = native.ffi.new("rlmem_diagonal_rnn *", fields)
    native.run(lambda: function(job), min(torch.get_num_threads(), splits[0] * splits[1]))
