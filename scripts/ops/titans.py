"""Memory that learns at test time: in chunks, and token by token.

Bytes: q, k, v, three rates and y once; three times that forward and backward. Flops: those of the
rule token by token, more than those of the chunks.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from rlmem.kernels import titans
from rlmem.kernels.titans import Learned, Rates, Rule, titans_reference

from .base import Case, Form, Inputs, Op, Work

LAYERS = {"linear": 1, "perceptron": 2}
CHUNK = 32
LONGEST_LOOP = 512  # steps, for the definition


def form(function: Form) -> Form:
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


ours, reference = form(titans), form(titans_reference)


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


OP = Titans()
