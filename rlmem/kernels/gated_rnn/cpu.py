"""The gated recurrent networks on the CPU, in C: the loop over time with its matrix product."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from rlmem.kernels import native
from rlmem.kernels.gated_rnn import tiles
from rlmem.kernels.gated_rnn.cells import CELLS, PARTS
from rlmem.kernels.gated_rnn.plain import Results

_MOST_ROWS = 16  # of a share, as in cpu.c


def forward(
    cell: str,
    projected: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor,
    start: Tensor | None,
    save: bool,
) -> Results:
    """Same as `plain.forward`."""
    front, width = projected.shape[:-1], weight.shape[1]
    counts = (PARTS, state.shape[1] - 1) if save else (0, 0)
    parts, kept = (tiles.empty(projected, *front, n * width) for n in counts)
    h, last = tiles.empty(projected, *front, width), state.new_empty(state.shape)
    vector = tiles.lanes(weight.dtype)
    packed = _pad(weight.unflatten(-1, (-1, width)), vector)
    packed = packed.unflatten(-1, (-1, vector)).permute(0, 3, 1, 2, 4)
    tensors = {"weight": packed, "bias": bias, "state": state, "start": start}
    results = {"h": h, "last": last, "parts": parts, "kept": kept}
    strided = {"projected": native.readable(projected.flatten(2))}
    _run(native.lib.rlmem_gated_rnn, cell, h, strided, tensors | results)
    return h, last, parts, kept


def backward(
    cell: str,
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    weight: Tensor,
    state: Tensor,
    start: Tensor | None,
    h: Tensor,
    parts: Tensor,
    kept: Tensor,
) -> Results:
    """Same as `plain.backward`."""
    heads, width, total = weight.shape
    grad_projected = tiles.empty(h, *h.shape[:-1], total)
    before, grad_state = tiles.empty(h, *h.shape), state.new_empty(state.shape)
    shared = tiles.empty(h, *h.shape) if CELLS[cell].gates < PARTS else None
    two = 2 * tiles.lanes(weight.dtype)
    packed = _pad(_pad(weight.unflatten(-1, (-1, width)), two).movedim(1, -1), two)
    packed = packed.unflatten(-1, (-1, two)).movedim(-2, 1)
    grad_bias = torch.zeros(_cuts(h)[0], heads, PARTS * width, dtype=torch.float64, device=h.device)
    tensors = {"weight": packed, "state": state, "start": start, "grad_last": grad_last}
    tensors |= {"h": h, "parts": parts, "kept": kept, "before": before, "grad_shared": shared}
    results = {"grad_projected": grad_projected, "grad_bias": grad_bias, "grad_state": grad_state}
    strided = {} if grad_h is None else {"grad_h": native.readable(grad_h.flatten(2))}
    _run(native.lib.rlmem_gated_rnn_backward, cell, h, strided, tensors | results)
    grad_weight = outer(before, grad_projected, shared)
    return grad_projected, grad_weight, grad_bias.sum(0).to(weight.dtype), grad_state


def outer(before: Tensor, grad: Tensor, shared: Tensor | None) -> Tensor:
    """The gradient of weight, as `plain.sums` defines it."""
    if shared is not None:
        width = shared.shape[-1]
        return torch.cat(
            [outer(before, grad[..., : 2 * width], None), outer(before, shared, None)], -1
        )
    heads = zip(before.flatten(0, 1).unbind(1), grad.flatten(0, 1).unbind(1), strict=True)
    return torch.stack([tiles.gram(*each) for each in heads])


def _run(
    function: Callable[[object], None],
    cell: str,
    h: Tensor,
    strided: dict[str, Tensor],
    tensors: dict[str, Tensor | None],
) -> None:
    """Call `function` in as many threads as there is work for; the dicts keep the tensors alive."""
    rows, time, heads, width = h.shape
    kind, cuts = CELLS[cell], _cuts(h)
    two = 2 * tiles.lanes(h.dtype)
    padded = -(-width // two) * two
    room = 8 * (_MOST_ROWS + 1) * padded
    scratch = torch.empty(cuts[0] * cuts[1] * room, dtype=h.dtype, device=h.device)
    given = {name: x.contiguous() for name, x in tensors.items() if x is not None and x.numel()}
    given |= strided | {"scratch": scratch}
    fields = {
        "dtype": tiles.DTYPES.index(h.dtype),
        "level": tiles.level(),
        "cell": list(CELLS).index(cell),
        "gates": kind.gates,
        "states": kind.states,
        "time": time,
        "heads": heads,
        "width": width,
        "padded": padded,
        "rows": rows,
        "row_cuts": cuts[0],
        "head_cuts": cuts[1],
        "room": room,
    }
    for name, x in strided.items():
        fields |= {f"{name}_row": x.stride(0), f"{name}_time": x.stride(1)}
    fields |= {name: x.data_ptr() for name, x in given.items()}
    rnn = native.ffi.new("rlmem_rnn *", fields)
    work = h.numel() * width * kind.gates
    threads = min(torch.get_num_threads(), cuts[0] * cuts[1]) if work >= tiles.WORTH else 1
    native.run(lambda: function(rnn), threads)


def _cuts(h: Tensor) -> tuple[int, int]:
    """Parts of the rows, none larger than a share may be, and of the heads."""
    rows, _, heads, _ = h.shape
    threads = torch.get_num_threads()
    row_cuts = -(-rows // _MOST_ROWS)
    while row_cuts * heads % threads and row_cuts < rows:
        row_cuts += 1
    return row_cuts, heads


def _pad(x: Tensor, multiple: int) -> Tensor:
    """`x` with zeros up to a multiple in its last dimension."""
    missing = -x.shape[-1] % multiple
    return F.pad(x, (0, missing)) if missing else x
