"""The self-referential weight matrix: the loop in C, and in torch with and without autograd.

There is a start every fifty steps on average. "loop" runs the definition step by step, under
autograd. Bytes: x and y once, forward; three times that forward and backward.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from rlmem.kernels.self_reference import self_reference, self_reference_reference

from .base import Case, Form, Inputs, Op, Work

LONGEST_LOOP = 256  # steps
EPISODE = 50  # steps between starts, on average


class SelfReference(Op):
    name = "self_reference"
    axes = "BxTxHxD"
    shapes = ((8, 128, 4, 32), (64, 128, 4, 16), (2, 2048, 4, 32))
    quick = ((8, 128, 4, 32),)
    tiny = (3, 20, 2, 4)

    def forms(self, case: Case, device: str) -> Iterator[tuple[str, Form]]:
        yield "rlmem", lambda *x: self_reference(*x)[0]
        if case.shape[1] <= LONGEST_LOOP:
            yield "loop", lambda *x: self_reference_reference(*x)[0]

    def leading(self, case: Case) -> tuple[str, ...]:
        return "BT", "", "B", "BT"

    def definition(self, case: Case, form: str) -> Form:
        return lambda *x: self_reference_reference(*x)[0]

    def inputs(self, case: Case, form: str, device: str) -> Inputs:
        rows, time, heads, size = case.shape
        x = torch.randn(rows, time, heads, size, device=device).softmax(-1)
        weight = torch.randn(heads, 3 * size + 4, size, device=device) / size**0.5
        change = torch.zeros(rows, *weight.shape, device=device)
        start = torch.rand(rows, time, device=device) < 1 / EPISODE
        grad = torch.randn(rows, time, heads, size, device=device)
        return Inputs((x, weight, change, start), grad)

    def work(self, case: Case) -> Work:
        elements, times = self.size(case.shape), 1 if case.passes == "forward" else 3
        size = case.shape[-1]
        flops = 6 * (3 * size + 4)  # two products and an outer product
        return Work(elements, 2 * case.itemsize * elements * times, flops * elements * times)


OP = SelfReference()
