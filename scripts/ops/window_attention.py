"""Attention over a sliding window: all scores with a mask, and torch's own attention with a mask.

Bytes: q, k, v, position queries and y once; three times that forward and backward. Flops: those of
the scores inside the window.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rlmem.kernels import window_attention
from rlmem.kernels.window_attention import segments, window_attention_reference

from .base import Case, Form, Inputs, Op, Shape, Work

LONGEST_MASK = 2048  # steps, for forms that compute all scores


def torchs(
    q: Tensor, k: Tensor, v: Tensor, alive: Tensor, start: Tensor, at: Tensor, relative: Tensor
) -> Tensor:
    """`scaled_dot_product_attention`, with positions and episodes as one large bias."""
    time, past = start.shape[1], alive.shape[1]
    place = torch.arange(past + time, device=q.device)
    distance = place[past:, None] - place
    segment = segments(alive, start)
    seen = (segment[:, past:, None] == segment[:, None, :]) & (distance >= 0) & (distance <= past)
    by_distance = torch.einsum("bthd,phd->bhtp", at, relative) * q.shape[-1] ** -0.5
    index = distance.clamp(0, past).expand(*by_distance.shape[:2], -1, -1)
    bias = by_distance.gather(3, index).masked_fill(~seen[:, None], -torch.inf)
    y = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=bias)
    return y.transpose(1, 2)


class WindowAttention(Op):
    name = "window_attention"
    axes = "BxTxHxDxM"
    shapes = (
        (32, 512, 4, 32, 64),
        (32, 512, 4, 32, 128),
        (4, 1024, 4, 32, 64),
        (4, 4096, 4, 32, 64),
        (4, 16384, 4, 32, 64),
    )
    quick = ((32, 512, 4, 32, 64),)
    tolerance = 1e-3

    def forms(self, case: Case, device: str) -> Iterator[tuple[str, Form]]:
        yield "rlmem", window_attention
        if case.shape[1] <= LONGEST_MASK:
            yield "reference", window_attention_reference
            yield "torch-sdpa", torchs

    def inputs(self, case: Case, form: str, device: str) -> Inputs:
        rows, time, heads, size, past = case.shape
        q, at, grad = torch.randn(3, rows, time, heads, size, device=device)
        k, v = torch.randn(2, rows, past + time, heads, size, device=device)
        relative = torch.randn(past + 1, heads, size, device=device)
        alive = torch.ones(rows, past, dtype=torch.bool, device=device)
        start = torch.rand(rows, time, device=device) < 1 / 50
        return Inputs((q, k, v, alive, start, at.clone(), relative), grad)

    def size(self, shape: Shape) -> int:
        rows, time, heads, size, _ = shape
        return rows * time * heads * size

    def work(self, case: Case) -> Work:
        elements, times = self.size(case.shape), 1 if case.passes == "forward" else 3
        past = case.shape[4]
        # Two products for the scores and one with the values, 2 M D each.
        return Work(elements, 4 * 5 * elements * times, 6 * elements * (past + 1) * times)

    def modules(self) -> tuple[ModuleType, ModuleType]:
        from rlmem.kernels.window_attention import triton_form, triton_kernels

        return triton_form, triton_kernels

    def launch(self, dtype: torch.dtype, odd: bool) -> None:
        sizes = (16, 32, 64, 128)
        for size, relative in product(sizes, (True, False)):
            launch(size, relative)

    def describe(
        self, tensors: Mapping[str, Any], options: Mapping[str, Any]
    ) -> tuple[torch.dtype, dict[str, object]]:
        given = "relative" if tensors["by_offset"] is not None else ""
        return tensors["query"].dtype, {
            "block": "x".join(str(options[name]) for name in ("BT", "BJ", "W")),
            "given": given,
        }


def launch(size: int, relative: bool, past: int = 64) -> None:
    """Forward and backward with `past` cached positions."""
    from rlmem.kernels.window_attention import triton_form

    query, grad, y = torch.zeros(3, 2, 70, 2, size)
    key, value = torch.zeros(2, 2, past + 70, 2, size)
    segment, none = torch.zeros(2, past + 70, dtype=torch.int64), query.new_empty(0)
    places = (torch.zeros_like(query), torch.zeros(past + 1, 2, size)) if relative else (none, none)
    inputs = (query, key, value, *places, segment)
    _, log_sum = triton_form.forward(*inputs)
    triton_form.backward(grad, y, log_sum, *inputs)


OP = WindowAttention()
