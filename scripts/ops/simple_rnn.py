"""The simple recurrent networks: loops over time in torch, with and without autograd.

There is a start every fifty steps on average. "loop" runs the definition step by step, under
autograd. Bytes: x and h once, forward; three times that forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from rlmem.kernels.simple_rnn import CELLS, simple_rnn, simple_rnn_reference

from .base import Case, Form, Inputs, Op, Work

LONGEST_LOOP = 1024  # steps
EPISODE = 50  # steps between starts, on average


class SimpleRNN(Op):
    name = "simple_rnn"
    axes = "BxTxD"
    shapes = ((8, 128, 64), (64, 128, 128), (64, 512, 128), (2, 4096, 64))
    quick = ((8, 128, 64),)
    tiny = (3, 40, 8)
    variants = ("elman", "indrnn", "mgu", "lem", "paragru", "paralstm")

    def forms(self, case: Case, device: str) -> Iterator[tuple[str, Form]]:
        yield "rlmem", bound(simple_rnn, case.variant)
        if case.shape[1] <= LONGEST_LOOP:
            yield "loop", bound(simple_rnn_reference, case.variant)

    def leading(self, case: Case) -> tuple[str, ...]:
        return "BT", "BT", "", *("B",) * CELLS[case.variant].states

    def definition(self, case: Case, form: str) -> Form:
        return bound(simple_rnn_reference, case.variant)

    def inputs(self, case: Case, form: str, device: str) -> Inputs:
        (rows, time, width), cell = case.shape, CELLS[case.variant]
        x = torch.randn(rows, time, cell.parts * width, device=device)
        start = torch.rand(rows, time, device=device) < 1 / EPISODE
        wide = cell.parts * width
        shape = (cell.diagonals * width,) if cell.diagonals else (width, wide)
        weight = torch.randn(shape, device=device) / width**0.5
        state = (torch.randn(rows, width, device=device) for _ in range(cell.states))
        grad = torch.randn(rows, time, width, device=device)
        return Inputs((x, start, weight, *state), grad)

    def work(self, case: Case) -> Work:
        elements, times = self.size(case.shape), 1 if case.passes == "forward" else 3
        cell = CELLS[case.variant]
        flops = 2 * cell.parts * (1 if cell.diagonals else case.shape[-1])
        size = case.itemsize * (1 + cell.parts)
        return Work(elements, size * elements * times, flops * elements * times)


def bound(rnn: Callable[..., tuple[Tensor, Any]], cell: str) -> Form:
    return lambda x, start, weight, *state: rnn(cell, x, weight, state, start)[0]


OP = SimpleRNN()
