"""The delta rule on CUDA devices: launches the Triton kernels."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from rlmem.kernels.delta_rule import triton_kernels
from rlmem.kernels.delta_rule.torch_form import Inputs

# By the width of a key: columns of the state per program, and warps.
COLUMNS = {16: (32, 1), 32: (32, 1), 64: (32, 2), 128: (32, 4)}


def forward(inputs: Inputs, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`o` [B, T, H, V], the last state [B, H, K, V], and the corrected errors, shaped as `o`."""
    o, errors = (inputs.v.new_empty(inputs.v.shape) for _ in range(2))
    last = state.new_empty(state.shape)
    tensors = (*_contiguous(*inputs), state.contiguous(), o, errors, last)
    _launch(triton_kernels.forward_kernel, tensors, inputs)
    return o, last, errors


def backward(
    grad_o: Tensor,
    grad_last: Tensor,
    inputs: Inputs,
    state: Tensor,
    o: Tensor,
    last: Tensor,
    errors: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients for q, k, v, beta, g (empty if not given) and the first state."""
    grad_o, grad_last, state, o, last = _contiguous(grad_o, grad_last, state, o, last)
    q, k, v, beta, g, start = _contiguous(*inputs)
    blocks = triton.cdiv(v.shape[-1], _block_sizes(inputs)[1])
    dq, d_beta, dg = (None if x is None else x.new_empty((blocks, *x.shape)) for x in (q, beta, g))
    dk = k.new_empty((2 * blocks, *k.shape))
    dv, d_state = v.new_empty(v.shape), state.new_empty(state.shape)
    gates = (beta, g, start)
    backwards = (grad_o, grad_last, q, k, v, *gates, o, errors, last)
    grads = (dk[:blocks], dv, d_beta, dg, d_state)
    _launch(triton_kernels.backward_kernel, (*backwards, *grads), inputs)
    forwards = (grad_o, k, *gates, state, errors, dv)
    _launch(triton_kernels.read_kernel, (*forwards, dq, dk[blocks:]), inputs)
    # Partial sums, one per block of columns, are added in a fixed order.
    dq, dk, d_beta, dg = (
        v.new_empty(0) if x is None else x[0] if len(x) == 1 else x.sum(0)
        for x in (dq, dk, d_beta, dg)
    )
    return dq, dk, dv, d_beta, dg, d_state


def _contiguous(*tensors: Tensor | None) -> tuple[Any, ...]:
    """The tensors as the kernels read them: contiguous, starts as bytes."""
    parts = (None if x is None else x.contiguous() for x in tensors)
    return tuple(x if x is None or x.dtype != torch.bool else x.view(torch.uint8) for x in parts)


def _block_sizes(inputs: Inputs) -> tuple[int, int]:
    """The numbers of a key and of a value in one program."""
    keys = max(16, triton.next_power_of_2(inputs.k.shape[-1]))
    values = max(16, triton.next_power_of_2(inputs.v.shape[-1]))
    return keys, min(values, COLUMNS[keys][0])


def _launch(kernel: Any, tensors: tuple[Tensor | None, ...], inputs: Inputs) -> None:
    """Launch one program for each head of each row and each block of the values."""
    rows, time, heads, size = inputs.k.shape
    keys, values = _block_sizes(inputs)
    width = inputs.v.shape[-1]
    with torch.cuda.device_of(inputs.k):
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
