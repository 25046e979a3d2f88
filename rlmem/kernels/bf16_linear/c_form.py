"""The layer on the CPU, in C: rounding, product, LayerNorm and activation of a block of rows.

These functions check nothing: `ops.py` does. They are called for every layer of every update, so
that their own time counts.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlmem.kernels import native

_FRESH = 2**18  # numbers; the C library asks the system for so much memory each time
_BLOCK_ROWS = 96  # as in c_kernels_x86.h
AVAILABLE: bool = (
    native.AVAILABLE
    and hasattr(native.lib, "rlmem_bf16_linear_available")
    and bool(native.lib.rlmem_bf16_linear_available())
)


class Layer(NamedTuple):
    """The constants of a layer; without `norm` there is no activation."""

    norm: bool
    slope: float
    eps: float


class Sizes(NamedTuple):
    """Numbers of 4 bytes in the packed matrix and the working memory; widths of the sums."""

    packed: int
    room: int
    weight_rows: int
    weight_columns: int
    vector_room: int


def forward(
    layer: Layer,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    save: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """`y` [*N, M], and with `norm` and `save` the normalised sums [*N, M] and 1 / deviation [*N].

    All arguments are contiguous, float32 and on the CPU.
    """
    outputs, inputs = weight.shape
    front = x.shape[:-1]
    y = _empty(torch.Size((*front, outputs)))
    saved = layer.norm and save
    normal = _empty(y.shape) if saved else None
    inverse = torch.empty(front, device=x.device) if saved else None
    sizes = sizes_of(inputs, outputs, False)
    rows = x.numel() // inputs
    splits = _splits(rows)
    memory = torch.empty(sizes.packed + splits * sizes.room, dtype=torch.int32, device=x.device)
    job = native.ffi.new("rlmem_bf16_linear *")
    job.inputs, job.outputs, job.rows, job.row_splits = inputs, outputs, rows, splits
    job.norm, job.slope, job.eps = layer
    job.weight = weight.data_ptr()
    job.x, job.y, job.x_row = x.data_ptr(), y.data_ptr(), inputs
    job.bias, job.scale, job.shift = map(_address, (bias, scale, shift))
    job.normal, job.deviation = _address(normal), _address(inverse)
    job.packed = memory.data_ptr()
    job.scratch, job.room = job.packed + 4 * sizes.packed, sizes.room
    native.lib.rlmem_bf16_linear_pack(job, False)
    native.run(lambda: native.lib.rlmem_bf16_linear_forward(job), splits)
    return y, normal, inverse


def backward(
    layer: Layer,
    for_x: bool,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    normal: Tensor | None,
    inverse: Tensor | None,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients for x (with `for_x`), for weight, and for bias, scale and shift [3, M]."""
    outputs, inputs = weight.shape
    grad_x = _empty(x.shape) if for_x else None
    job = native.ffi.new("rlmem_bf16_linear *")
    job.norm, job.slope, job.eps = layer
    job.weight, job.grad_x = weight.data_ptr(), _address(grad_x)
    job.scale, job.shift = _address(scale), _address(shift)
    job.normal, job.deviation = _address(normal), _address(inverse)
    rows = x.view(-1, inputs), grad.view(-1, outputs)
    for_weight, vectors = _run_backward(job, *rows)
    return grad_x, for_weight, vectors


def gram(x: Tensor, grad: Tensor) -> Tensor:
    """`grad.T @ x`, [N, M] and [N, K] to [M, K]: the gradient of a layer's weight.

    Both are float32 and on the CPU, with any strides over rows and 1 over columns.
    """
    return _run_backward(native.ffi.new("rlmem_bf16_linear *"), x, grad)[0]


def _run_backward(job: Any, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    (rows, inputs), outputs = x.shape, grad.shape[1]
    sizes = sizes_of(inputs, outputs, True)
    splits = _splits(rows)
    memory = torch.empty(sizes.packed + splits * sizes.room, dtype=torch.int32, device=x.device)
    matrix = sizes.weight_rows * sizes.weight_columns
    sums = torch.zeros(splits, matrix + 3 * sizes.vector_room, device=x.device)
    job.inputs, job.outputs, job.rows, job.row_splits = inputs, outputs, rows, splits
    job.x, job.grad, job.x_row, job.grad_row = (
        x.data_ptr(),
        grad.data_ptr(),
        x.stride(0),
        grad.stride(0),
    )
    job.packed = memory.data_ptr()
    job.scratch, job.room = job.packed + 4 * sizes.packed, sizes.room
    job.sums, job.sum_room = sums.data_ptr(), sums.shape[1]
    if job.grad_x:
        native.lib.rlmem_bf16_linear_pack(job, True)
    native.run(lambda: native.lib.rlmem_bf16_linear_backward(job), splits)
    total = sums[0] if splits == 1 else sums.sum(0)
    for_weight = total[:matrix].view(sizes.weight_rows, sizes.weight_columns)
    vectors = total[matrix:].view(3, sizes.vector_room)
    return for_weight[:outputs, :inputs], vectors[:, :outputs]


@lru_cache(maxsize=1024)
def sizes_of(inputs: int, outputs: int, backward: bool) -> Sizes:
    """The sizes of memory for a layer."""
    job = native.ffi.new("rlmem_bf16_linear *", {"inputs": inputs, "outputs": outputs})
    packed = native.lib.rlmem_bf16_linear_sizes(job, backward)
    return Sizes(packed, job.room, job.weight_rows, job.weight_columns, job.vector_room)


def _splits(rows: int) -> int:
    """The number of work items; no more than blocks of rows."""
    threads = torch.get_num_threads()
    return 1 if threads == 1 else min(-(-rows // _BLOCK_ROWS), threads)


def _empty(shape: torch.Size) -> Tensor:
    """Memory for a result: of an earlier one if torch would get fresh pages for it."""
    if shape.numel() >= _FRESH:
        return native.empty(shape, torch.float32)
    return torch.empty(shape, device="cpu")


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()
