"""Memory that learns at test time: in chunks, and token by token.

Bytes: q, k, v, three rates and y once; three times that forward and backward. Flops: those of the
rule token by token, more than those of the chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rlmem.kernels import titans
from rlmem.kernels.titans import Learned, Rates, Rule, titans_reference, torch_form

from .base import Case, Form, Inputs, Op, Work

LAYERS = {"linear": 1, "perceptron": 2}
CHUNK = 8  # that of the cores
LONGEST_LOOP = 512  # steps, for the definition


def form(function: Callable[..., tuple[Tensor, Learned]]) -> Form:
    """A form of the operator with tensors as its only arguments; each row begins with a start."""

    def run(
        q: Tensor, k: Tensor, v: Tensor, rates: Tensor, start: Tensor, *first: Tensor
    ) -> Tensor:
        rows = tuple(w.expand(len(q), *w.shape) for w in first)
        none = tuple(torch.zeros_like(w) for w in rows)
        state = Learned(rows, none, rows, torch.zeros_like(start[:, 0], dtype=torch.int64))
        y: Tensor = function(q, k, v, Rates(*rates.unbind(-1)), first, state, start, Rule(CHUNK))[0]
        return y

    return run


# The chunks in torch are the form of the operator where there are no kernels.
ours, reference, chunks = form(titans), form(titans_reference), form(torch_form.forward)


class Titans(Op):
    name = "titans"
    axes = "BxTxHxD"
    shapes = ((32, 512, 4, 32), (4, 1024, 4, 32), (4, 4096, 4, 32), (4, 16384, 4, 32))
    quick = ((32, 512, 4, 32),)
    gpu_shapes = ((1024, 128, 4, 32), (16, 4096, 4, 32), (256, 64, 4, 64))
    tiny = (3, 40, 2, 8)
    variants = tuple(LAYERS)
    tolerance = 1e-3

    def forms(self, case: Case, device: str) -> Iterator[tuple[str, Form]]:
        yield "rlmem", ours
        if device == "cuda":
            yield "chunks", chunks
        if case.shape[1] <= LONGEST_LOOP:
            yield "reference", reference

    def leading(self, case: Case) -> tuple[str, ...]:
        return *("BT",) * 5, *("",) * LAYERS[case.variant]

    def definition(self, case: Case, form: str) -> Form:
        return reference

    def inputs(self, case: Case, form: str, device: str) -> Inputs:
        rows, time, heads, size = case.shape
        q, k, v, grad = torch.randn(4, *case.shape, device=device)
        q, k = (F.normalize(x, dim=-1) for x in (q, k))
        scale = torch.tensor([0.05, 0.3, 0.05], device=device)
        rates = torch.rand(rows, time, heads, 3, device=device) * scale
        start = torch.rand(rows, time, device=device) < 1 / 200
        width = 2 * size if LAYERS[case.variant] == 2 else size
        shapes = [(size, width), (width, size)][: LAYERS[case.variant]]
        first = [torch.randn(heads, *s, device=device) / s[0] ** 0.5 for s in shapes]
        return Inputs((q, k, v.clone(), rates, start, *first), grad)

    def work(self, case: Case) -> Work:
        rows, time, heads, size = case.shape
        elements, times = self.size(case.shape), 1 if case.passes == "forward" else 3
        numbers = (4 * elements + 3 * rows * time * heads) * times
        matrices = 1 if case.variant == "linear" else 4  # of size x size
        # Prediction, gradient, momentum, decay and answer.
        return Work(elements, case.itemsize * numbers, 10 * elements * size * matrices * times)

    def modules(self) -> tuple[ModuleType, ModuleType]:
        from rlmem.kernels.titans import triton_form, triton_kernels

        return triton_form, triton_kernels

    def launch(self, dtype: torch.dtype, odd: bool) -> None:
        for layers, size, chunk in LAUNCHES:
            launch(layers, size, chunk)
            if odd:
                launch(layers, size - 3, chunk)

    def describe(
        self, tensors: Mapping[str, Any], options: Mapping[str, Any]
    ) -> tuple[torch.dtype, dict[str, object]]:
        return tensors["k"].dtype, {
            "layers": options["LAYERS"],
            "K": tensors["k"].shape[-1],
            "chunk": options["C"],
            "values": options["BV"],
            "warps": options["num_warps"],
        }


# Matrices, size of keys and values, chunk. Errors are kept in registers; tiles have the same size
# for all widths and chunks.
LAUNCHES = [(layers, size, 8) for layers in (1, 2) for size in (32, 128)]


def launch(layers: int, size: int, chunk: int, rule: Rule | None = None) -> None:
    """Forward and backward, with Huber's loss and a limit, which need the most registers."""
    from rlmem.kernels.titans import triton_form

    rule = rule or Rule(chunk, 4.0, bias="huber")
    rows, time, heads = 2, 3 * chunk, 2
    q = torch.zeros(rows, time, heads, size)
    shapes = [(size, 2 * size), (2 * size, size)] if layers == 2 else [(size, size)]
    first = tuple(torch.zeros(heads, *shape) for shape in shapes)
    matrices = tuple(w.expand(rows, *w.shape) for w in first)
    state = Learned(matrices, matrices, matrices, torch.zeros(rows, dtype=torch.int64))
    rates, start = Rates(*torch.zeros(5, *q.shape[:3])), torch.zeros(rows, time, dtype=torch.bool)
    arguments = q, q, q, rates, first, state, start, rule
    triton_form.forward(*arguments)
    triton_form.backward(q, [matrices] * 3, *arguments)


OP = Titans()
