"""The gated recurrent networks on the CPU, in C: the loop over time and its matrix products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from rlmem.errors import unknown
from rlmem.kernels import native
from rlmem.kernels.bf16_linear import c_form as bf16
from rlmem.kernels.gated_rnn import tiles
from rlmem.kernels.gated_rnn.cells import CELLS, PER_UNIT
from rlmem.kernels.gated_rnn.torch_form import Results
from rlmem.kernels.native import check_shapes, check_tensors, plain, same_dtype

_MOST_ROWS = 16  # of a work item, as in c_kernels.c
_NARROW = 3  # the level of products of bfloat16


def forward(
    cell: str,
    projected: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor,
    start: Tensor | None,
    save: bool,
    narrow: bool = False,
) -> Results:
    """Same as `torch_form.forward`; with `narrow`, products are of bfloat16."""
    _check(cell, {"projected": projected, "bias": bias}, weight, state, start)
    weight = plain(weight)
    front, width = projected.shape[:-1], weight.shape[1]
    counts = (PER_UNIT, state.shape[1] - 1) if save else (0, 0)
    activations, saved_states = (tiles.empty(projected, *front, n * width) for n in counts)
    h, last = tiles.empty(projected, *front, width), state.new_empty(state.shape)
    vector = tiles.lanes(weight.dtype)
    packed = _pad(weight.unflatten(-1, (-1, width)), vector)
    packed = packed.unflatten(-1, (-1, vector)).permute(0, 3, 1, 2, 4)
    packed = _pairs(packed, 2) if narrow else packed
    tensors = {"weight": packed, "bias": bias, "state": state, "start": start}
    results = {"h": h, "last": last, "activations": activations, "saved_states": saved_states}
    strided = {"projected": native.unit_stride(projected.flatten(2))}
    _run(native.lib.rlmem_gated_rnn, cell, h, strided, {**tensors, **results}, narrow)
    return h, last, activations, saved_states


def backward(
    cell: str,
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    weight: Tensor,
    state: Tensor,
    start: Tensor | None,
    h: Tensor,
    activations: Tensor,
    saved_states: Tensor,
    narrow: bool = False,
) -> Results:
    """Same as `torch_form.backward`; with `narrow`, products are of bfloat16."""
    given = {"h": h, "grad_h": grad_h, "grad_last": grad_last}
    given |= {"activations": activations, "saved_states": saved_states}
    _check(cell, given, weight, state, start)
    weight = plain(weight)
    heads, width, total = weight.shape
    grad_projected = tiles.empty(h, *h.shape[:-1], total)
    before, grad_state = tiles.empty(h, *h.shape), state.new_empty(state.shape)
    grad_h_n = tiles.empty(h, *h.shape) if CELLS[cell].gates < PER_UNIT else None
    two = 2 * tiles.lanes(weight.dtype)
    packed = _pad(_pad(weight.unflatten(-1, (-1, width)), two).movedim(1, -1), two)
    packed = packed.unflatten(-1, (-1, two)).movedim(-2, 1)
    packed = _pairs(packed.flatten(2, 3), 2) if narrow else packed
    grad_bias = torch.zeros(
        _splits(h)[0], heads, PER_UNIT * width, dtype=torch.float64, device=h.device
    )
    tensors = {"weight": packed, "state": state, "start": start, "grad_last": grad_last}
    tensors |= {
        "h": h,
        "activations": activations,
        "saved_states": saved_states,
        "before": before,
        "grad_h_n": grad_h_n,
    }
    results = {"grad_projected": grad_projected, "grad_bias": grad_bias, "grad_state": grad_state}
    strided = {} if grad_h is None else {"grad_h": native.unit_stride(grad_h.flatten(2))}
    both = {**tensors, **results}
    _run(native.lib.rlmem_gated_rnn_backward, cell, h, strided, both, narrow)
    grad_weight = outer(before, grad_projected, grad_h_n, narrow)
    return grad_projected, grad_weight, grad_bias.sum(0).to(weight.dtype), grad_state


def narrow_available(x: Tensor) -> bool:
    """Whether rows like `x` can have products of bfloat16."""
    return tiles.supports(x) and x.dtype is torch.float32 and bf16.AVAILABLE


def outer(before: Tensor, grad: Tensor, grad_h_n: Tensor | None, narrow: bool = False) -> Tensor:
    """The gradient of weight, as `torch_form.sums` defines it."""
    if grad_h_n is not None:
        width = grad_h_n.shape[-1]
        return torch.cat(
            [
                outer(before, grad[..., : 2 * width], None, narrow),
                outer(before, grad_h_n, None, narrow),
            ],
            -1,
        )
    heads = zip(before.flatten(0, 1).unbind(1), grad.flatten(0, 1).unbind(1), strict=True)
    if narrow:
        return torch.stack([bf16.gram(x, y).t() for x, y in heads])
    return torch.stack([tiles.gram(*each) for each in heads])


def _check(
    cell: str,
    given: dict[str, Tensor | None],
    weight: Tensor,
    state: Tensor,
    start: Tensor | None,
) -> None:
    """Check every number that C relies on; the first of `given` is [B, T, H, any]."""
    if cell not in CELLS:
        raise unknown("cell", cell, CELLS)
    first = next(iter(given.values()))
    given = given | {"weight": weight, "state": state, "start": start}
    required = given.keys() - {"grad_h", "grad_last", "start"}
    check_tensors("gated_rnn", given, same_dtype(weight, tiles.DTYPES), ["cpu"], required)
    assert first is not None
    if first.dim() != 4 or weight.dim() != 3 or 0 in (*first.shape, *weight.shape):
        raise ValueError(
            f"gated_rnn: rows must be [B, T, H, ...] and weight [H, D, G D], each at least 1, not "
            f"{list(first.shape)} and {list(weight.shape)}"
        )
    front, heads, width = first.shape[:-1], weight.shape[0], weight.shape[1]
    gates, states = CELLS[cell].gates, CELLS[cell].states
    shapes = {
        "projected": (*front[:2], heads, gates * width),
        "weight": (heads, width, gates * width),
        "bias": (heads, PER_UNIT * width),
        "state": (front[0], states, heads, width),
        "start": front[:2],
        "h": (*front[:2], heads, width),
        "activations": (*front, PER_UNIT * width),
        "saved_states": (*front, (states - 1) * width),
    }
    shapes |= {"grad_h": shapes["h"], "grad_last": shapes["state"]}
    check_shapes("gated_rnn", {name: (x, shapes[name]) for name, x in given.items()})


def _run(
    function: Callable[[object], None],
    cell: str,
    h: Tensor,
    strided: dict[str, Tensor],
    tensors: dict[str, Tensor | None],
    narrow: bool,
) -> None:
    """Call `function` in as many threads as useful; the dicts keep the tensors alive."""
    rows, time, heads, width = h.shape
    kind, splits = CELLS[cell], _splits(h)
    two = 2 * tiles.lanes(h.dtype)
    padded = -(-width // two) * two
    room = (8 * (_MOST_ROWS + 1) + (2 * _MOST_ROWS if narrow else 0)) * padded
    scratch = torch.empty(splits[0] * splits[1] * room, dtype=h.dtype, device=h.device)
    given = {n: plain(x).contiguous() for n, x in tensors.items() if x is not None and x.numel()}
    given |= strided | {"scratch": scratch}
    fields = {
        "dtype": tiles.DTYPES.index(h.dtype),
        "level": _NARROW if narrow else tiles.level(),
        "cell": list(CELLS).index(cell),
        "gates": kind.gates,
        "states": kind.states,
        "time": time,
        "heads": heads,
        "width": width,
        "padded": padded,
        "rows": rows,
        "row_splits": splits[0],
        "head_splits": splits[1],
        "room": room,
    }
    for name, x in strided.items():
        fields |= {f"{name}_row": x.stride(0), f"{name}_time": x.stride(1)}
    fields |= {name: x.data_ptr() for name, x in given.items()}
    rnn = native.ffi.new("rlmem_rnn *", fields)
    work = h.numel() * width * kind.gates
    threads = min(torch.get_num_threads(), splits[0] * splits[1]) if work >= tiles.MIN_WORK else 1
    native.run(lambda: function(rnn), threads)


def _splits(h: Tensor) -> tuple[int, int]:
    """The number of parts of the rows, each with few enough for a work item, and of the heads."""
    rows, _, heads, _ = h.shape
    threads = torch.get_num_threads()
    row_splits = -(-rows // _MOST_ROWS)
    while row_splits * heads % threads and row_splits < rows:
        row_splits += 1
    return row_splits, heads


def _pairs(x: Tensor, dim: int) -> Tensor:
    """`x` [.., K, .., V] in bfloat16, neighbours along `dim` together: [.., K / 2, .., V, 2]."""
    x = F.pad(x, [0, 0] * (x.dim() - 1 - dim) + [0, x.shape[dim] % 2])
    return x.bfloat16().unflatten(dim, (-1, 2)).movedim(dim + 1, -1)


def _pad(x: Tensor, multiple: int) -> Tensor:
    """`x`, its last dimension padded with zeros to a multiple of `multiple`."""
    missing = -x.shape[-1] % multiple
    return F.pad(x, (0, missing)) if missing else x
