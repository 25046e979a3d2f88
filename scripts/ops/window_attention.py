"""Attention over a sliding window: all scores with a mask, and torch's own attention with a mask.

The variant "relative" adds scores by distance, as Transformer-XL does; "plain" does not. On CUDA,
"flex" is torch's FlexAttention, whose block mask is prepared outside the timed part.
"torch-sdpa-causal" attends to all earlier steps of the row, without window, past and episodes.

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
MOST_SCORES = 2**30  # entries of such a mask
LONGEST_CAUSAL = 8192  # steps, for attention to the whole row


def torchs(
    q: Tensor, k: Tensor, v: Tensor, alive: Tensor, start: Tensor, *by_distance: Tensor
) -> Tensor:
    """`scaled_dot_product_attention`, with positions and episodes as one large bias or mask."""
    time, past = start.shape[1], alive.shape[1]
    place = torch.arange(past + time, device=q.device)
    distance = place[past:, None] - place
    segment = segments(alive, start)
    seen = (segment[:, past:, None] == segment[:, None, :]) & (distance >= 0) & (distance <= past)
    bias = seen[:, None]
    if by_distance:
        score = torch.einsum("bthd,phd->bhtp", *by_distance) * q.shape[-1] ** -0.5
        index = distance.clamp(0, past).expand(*score.shape[:2], -1, -1)
        bias = score.gather(3, index).masked_fill(~bias, -torch.inf)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)


def causal(q: Tensor, k: Tensor, v: Tensor, alive: Tensor, start: Tensor) -> Tensor:
    """`scaled_dot_product_attention` over the whole row."""
    past = alive.shape[1]
    q, k, v = (x.transpose(1, 2) for x in (q, k[:, past:], v[:, past:]))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def flex() -> Form:
    """Compiled FlexAttention; the mask is made at the first call and serves all later ones."""
    from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

    attend = torch.compile(flex_attention, dynamic=False)
    masks: list[BlockMask] = []

    def run(q: Tensor, k: Tensor, v: Tensor, alive: Tensor, start: Tensor) -> Tensor:
        past, segment = alive.shape[1], segments(alive, start)

        def seen(row: Tensor, head: Tensor, here: Tensor, there: Tensor) -> Tensor:
            distance = here + past - there
            same = segment[row, here + past] == segment[row, there]
            return same & (distance >= 0) & (distance <= past)

        if not masks:
            shape = (len(q), None, q.shape[1], k.shape[1])
            masks.append(create_block_mask(seen, *shape, device=q.device.type))
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        y: Tensor = attend(q, k, v, block_mask=masks[0])
        return y.transpose(1, 2)

    return run


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
    gpu_shapes = (
        (1024, 128, 4, 32, 64),
        (16, 4096, 4, 32, 128),
        (256, 64, 4, 64, 64),
        (16, 65536, 4, 32, 128),
    )
    tiny = (3, 40, 2, 8, 6)
    variants = ("relative", "plain")
    apart = ("torch-sdpa-causal",)
    tolerance = 1e-3

    def forms(self, case: Case, device: str) -> Iterator[tuple[str, Form]]:
        yield "rlmem", window_attention
        rows, time, heads, _, past = case.shape
        if time <= LONGEST_MASK and rows * heads * time * (past + time) <= MOST_SCORES:
            yield "reference", window_attention_reference
            yield "torch-sdpa", torchs
        if case.variant == "plain":
            if time <= LONGEST_CAUSAL:
                yield "torch-sdpa-causal", causal
            if device == "cuda":
                yield "flex", flex()

    def leading(self, case: Case) -> tuple[str, ...]:
        return *("BT", "BT", "BT", "B", "BT"), *(("BT", "") if case.variant == "relative" else ())

    def definition(self, case: Case, form: str) -> Form:
        return causal if form == "torch-sdpa-causal" else window_attention_reference

    def inputs(self, case: Case, form: str, device: str) -> Inputs:
        rows, time, heads, size, past = case.shape
        q, at, grad = torch.randn(3, rows, time, heads, size, device=device)
        k, v = torch.randn(2, rows, past + time, heads, size, device=device)
        alive = torch.ones(rows, past, dtype=torch.bool, device=device)
        start = torch.rand(rows, time, device=device) < 1 / 50
        if case.variant == "plain":
            return Inputs((q, k, v.clone(), alive, start), grad)
        relative = torch.randn(past + 1, heads, size, device=device)
        return Inputs((q, k, v.clone(), alive, start, at.clone(), relative), grad)

    def size(self, shape: Shape) -> int:
        rows, time, heads, size, _ = shape
        return rows * time * heads * size

    def work(self, case: Case) -> Work:
        elements, times = self.size(case.shape), 1 if case.passes == "forward" else 3
        past = case.shape[4]
        # One product for the scores, or two, and one with the values, 2 M D each.
        tensors = 5 if case.variant == "relative" else 4
        moved = case.itemsize * tensors * elements * times
        products = 3 if case.variant == "relative" else 2
        return Work(elements, moved, 2 * products * elements * (past + 1) * times)

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
