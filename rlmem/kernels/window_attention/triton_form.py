"""Attention over a sliding window on CUDA devices: launches the Triton kernels, in float32.

The scores by distance [H, B T, M+1] are a matrix product in torch; the backward recomputes it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from rlmem.kernels.window_attention import triton_kernels

BLOCK = 32  # queries, and keys, of a block
WARPS = {16: 4, 32: 8, 64: 8, 128: 8}  # by the padded size of a key and a value


def forward(
    query: Tensor, key: Tensor, value: Tensor, at: Tensor, relative: Tensor, segment: Tensor
) -> tuple[Tensor, Tensor]:
    """Same as `torch_form.forward`."""
    scale, width = query.shape[-1] ** -0.5, _width(query, value)
    q, k, v = (_padded(x, width) for x in (query * scale, key, value))
    y, log_sum = torch.empty_like(q), q.new_empty(q.shape[0], q.shape[2], q.shape[1])
    by_offset = _by_offset(at * scale, relative)
    tensors = (q, k, v, by_offset, segment.contiguous(), y, log_sum)
    _launch(triton_kernels.forward_kernel, tensors, q, segment)
    return y[..., : value.shape[3]].contiguous(), log_sum


def backward(
    grad_y: Tensor,
    y: Tensor,
    log_sum: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    at: Tensor,
    relative: Tensor,
    segment: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Same as `torch_form.backward`."""
    size, scale, width = query.shape[-1], query.shape[-1] ** -0.5, _width(query, value)
    grad, q, k, v = (_padded(x, width) for x in (grad_y, query * scale, key, value))
    at = at * scale
    by_offset = _by_offset(at, relative)
    common = (grad_y * y).sum(-1).transpose(1, 2).contiguous()
    into_q, into_k, into_v = (torch.empty_like(x) for x in (q, k, v))
    tensors = (grad, q, k, v, by_offset, segment.contiguous(), log_sum.contiguous(), common)
    _launch(triton_kernels.key_backward_kernel, (*tensors, into_k, into_v), q, segment, keys=True)
    into = None if by_offset is None else torch.empty_like(by_offset)
    _launch(triton_kernels.query_backward_kernel, (*tensors, into_q, into), q, segment)
    grad_query, grad_key = into_q[..., :size].mul(scale), into_k[..., :size].contiguous()
    grad_value = into_v[..., : value.shape[3]].contiguous()
    if into is None:
        return grad_query, grad_key, grad_value, at, at.new_empty(relative.shape)
    grad_at = (into @ _farthest_first(relative)).transpose(0, 1).contiguous().mul_(scale)
    grad_relative = (into.mT @ _heads_first(at)).transpose(0, 1).flip(0).contiguous()
    return grad_query, grad_key, grad_value, grad_at.view(query.shape), grad_relative


def _width(query: Tensor, value: Tensor) -> int:
    """A power of two for tensor cores, at least the sizes of a key and of a value."""
    return max(16, triton.next_power_of_2(max(query.shape[-1], value.shape[-1])))


def _padded(x: Tensor, width: int) -> Tensor:
    """[B, N, H, width], padded with zeros: rows of odd sizes cost the kernels more registers."""
    missing = width - x.shape[-1]
    return (F.pad(x, (0, missing)) if missing else x).contiguous()  # padding by nothing copies


def _by_offset(at: Tensor, relative: Tensor) -> Tensor | None:
    """The scores by place in the window [H, B T, M+1]; None without `relative`."""
    return _heads_first(at) @ _farthest_first(relative).mT if relative.numel() else None


def _farthest_first(relative: Tensor) -> Tensor:
    """[M+1, H, D] by distance as [H, M+1, D] by place in the window."""
    return relative.flip(0).transpose(0, 1)


def _heads_first(at: Tensor) -> Tensor:
    """[B, T, H, D] as [H, B T, D]."""
    return at.flatten(0, 1).transpose(0, 1)


def _launch(
    kernel: Any,
    tensors: tuple[Tensor | None, ...],
    like: Tensor,
    segment: Tensor,
    keys: bool = False,
) -> None:
    """Launch one program for each block of queries, or of keys, of each head of each row."""
    rows, time, heads, width = like.shape
    blocks = triton.cdiv(segment.shape[1] if keys else time, BLOCK)
    with torch.cuda.device_of(like):
        kernel[(rows * heads, blocks)](
            *tensors,
            time,
            segment.shape[1] - time,
            heads,
            BT=BLOCK,
            BJ=BLOCK,
            W=width,
            num_warps=WARPS[width],
            num_stages=1,
            enable_fp_fusion=True,
        )
