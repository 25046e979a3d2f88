"""The delta rule on CUDA devices: launches the Triton kernels."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from rlmem.kernels.delta_rule import gpu_kernels
from rlmem.kernels.delta_rule.chunked import Row

# Columns of the state that one program owns, and its warps, by the width of the columns.
COLUMNS = {16: (32, 1), 32: (32, 1), 64: (32, 2), 128: (32, 4)}


def forward(row: Row, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`o` [B, T, H, V], the last state [B, H, K, V], and the errors that were corrected, as `o`."""
    o, errors = (row.v.new_empty(row.v.shape) for _ in range(2))
    last = state.new_empty(state.shape)
    tensors = (*_contiguous(*row), state.contiguous(), o, errors, last)
    _launch(gpu_kernels.forward_kernel, tensors, row)
    return o, last, errors


def backward(
    grad_o: Tensor,
    grad_last: Tensor,
    row: Row,
    state: Tensor,
    o: Tensor,
    last: Tensor,
    errors: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients for q, k, v, beta, g (empty where there is none) and the first state."""
    grad_o, grad_last, state, o, last = _contiguous(grad_o, grad_last, state, o, last)
    q, k, v, beta, g, start = _contiguous(*row)
    shares = triton.cdiv(v.shape[-1], _blocks(row)[1])
    dq, d_beta, dg = (None if x is None else x.new_empty((shares, *x.shape)) for x in (q, beta, g))
    dk = k.new_empty((2 * shares, *k.shape))
    dv, d_state = v.new_empty(v.shape), state.new_empty(state.shape)
    gates = (beta, g, start)
    backwards = (grad_o, grad_last, q, k, v, *gates, o, errors, last)
    grads = (dk[:shares], dv, d_beta, dg, d_state)
    _launch(gpu_kernels.backward_kernel, (*backwards, *grads), row)
    forwards = (grad_o, k, *gates, state, errors, dv)
    _launch(gpu_kernels.read_kernel, (*forwards, dq, dk[shares:]), row)
    # Shares are summed in a fixed order.
    dq, dk, d_beta, dg = (
        v.new_empty(0) if x is None else x[0] if len(x) == 1 else x.sum(0)
        for x in (dq, dk, d_beta, dg)
    )
    return dq, dk, dv, d_beta, dg, d_state


def _contiguous(*tensors: Tensor | None) -> tuple[Any, ...]:
    """As the kernels read them: starts as bytes."""
    parts = (None if x is None else x.contiguous() for x in tensors)
    return tuple(x if x is None or x.dtype != torch.bool else x.view(torch.uint8) for x in parts)


def _blocks(row: Row) -> tuple[int, int]:
    """How many numbers of a key and of a value one program holds."""
    keys = max(16, triton.next_power_of_2(row.k.shape[-1]))
    values = max(16, triton.next_power_of_2(row.v.shape[-1]))
    return keys, min(values, COLUMNS[keys][0])


def _launch(kernel: Any, tensors: tuple[Tensor | None, ...], row: Row) -> None:
    """A program for each head of each row and each block of the values."""
    rows, time, heads, size = row.k.shape
    keys, values = _blocks(row)
    width = row.v.shape[-1]
    with torch.cuda.device_of(row.k):
        kernel[(rows * heads, triton.cdiv(width, values))](
            *tensors,
            time,
            heads,
            size,
            width,
            KEYS=keys,
            VALUES=values,
            num_warps=COLUMNS[keys][1],
            enable_fp_fusion=True,
        )
