"""The short convolution on the CPU, in C: one pass forward and one backward over each row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rlmem.kernels import native
from rlmem.kernels.native import check_shapes, check_tensors, plain, same_dtype

_DTYPES = [torch.float32, torch.float64]
_MAX_SIZE = 4  # steps of a filter


def supports(x: Tensor, weight: Tensor) -> bool:
    """Whether the C module was built and has a kernel for this dtype and width."""
    return native.AVAILABLE and x.dtype in _DTYPES and weight.shape[1] <= _MAX_SIZE


def forward(x: Tensor, weight: Tensor, bias: Tensor, window: Tensor, start: Tensor) -> Tensor:
    """`y` [B, T, D]; arguments as in `short_conv`, of one dtype."""
    _check({"x": x, "bias": bias}, weight, window, start)
    y = native.empty(x.shape, x.dtype)
    rest = {"bias": plain(bias).contiguous(), "y": y}
    _run(native.lib.rlmem_short_conv, {"x": x}, weight, window, start, rest)
    return y


def backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, window: Tensor, start: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients for x, weight, bias and window."""
    _check({"x": x, "grad_y": grad_y}, weight, window, start)
    channels, size = weight.shape
    shares = (splits := native.work_splits(x.shape, x.itemsize))[0] * splits[1]
    sums = weight.new_zeros(shares, _MAX_SIZE + 1, channels, dtype=torch.float64)
    grad_x = native.empty(x.shape, x.dtype)
    grad_window = window.new_empty(window.shape)
    rest = {"grad_x": grad_x, "grad_window": grad_window, "sums": sums}
    strided = {"x": x, "grad_y": grad_y}
    _run(native.lib.rlmem_short_conv_backward, strided, weight, window, start, rest)
    # Copies: results of an operator may not share memory.
    total = sums.sum(0)
    grad_weight, grad_bias = weight.new_empty(weight.shape), weight.new_empty(channels)
    grad_weight.copy_(total[:size].flip(0).t())
    grad_bias.copy_(total[_MAX_SIZE])
    return grad_x, grad_weight, grad_bias, grad_window


def _check(given: dict[str, Tensor], weight: Tensor, window: Tensor, start: Tensor) -> None:
    """Check every number that C relies on."""
    given = given | {"weight": weight, "window": window, "start": start}
    x = given["x"]
    check_tensors("short_conv", given, same_dtype(x, _DTYPES), ["cpu"], given)
    if x.dim() != 3 or weight.dim() != 2 or 0 in (*x.shape, *weight.shape):
        raise ValueError(
            f"short_conv: x must be [B, T, D] and weight [D, W], each at least 1, not "
            f"{list(x.shape)} and {list(weight.shape)}"
        )
    rows, time, channels = x.shape
    size = min(weight.shape[1], _MAX_SIZE)
    shapes = {"x": x.shape, "grad_y": x.shape, "bias": (channels,), "weight": (channels, size)}
    shapes |= {"window": (rows, size - 1, channels), "start": (rows, time)}
    check_shapes("short_conv", {name: (each, shapes[name]) for name, each in given.items()})


def _run(
    function: Callable[[object], None],
    strided: dict[str, Tensor],
    weight: Tensor,
    window: Tensor,
    start: Tensor,
    rest: dict[str, Tensor],
) -> None:
    """Call `function` in as many threads as useful; the dicts keep the tensors alive."""
    x = strided["x"]
    rows, time, channels = x.shape
    splits = native.work_splits(x.shape, x.itemsize)
    fields = {
        "dtype": _DTYPES.index(x.dtype),
        "time": time,
        "channels": channels,
        "size": weight.shape[1],
        "rows": rows,
        "row_splits": splits[0],
        "channel_splits": splits[1],
    }
    strided = {name: native.unit_stride(each) for name, each in strided.items()}
    for name, each in strided.items():
        fields |= {f"{name}_row": each.stride(0), f"{name}_time": each.stride(1)}
    rest = rest | {
        "weight": plain(weight).t().flip(0).contiguous(),
        "window": plain(window).contiguous(),
        "start": start.contiguous(),
    }
    fields |= {name: each.data_ptr() for name, each in (strided | rest).items()}
    conv = native.ffi.new("rlmem_conv *", fields)
    native.run(lambda: function(conv), min(torch.get_num_threads(), splits[0] * splits[1]))
