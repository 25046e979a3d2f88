"""The delta rule: its definition (a loop), and its chunks under autograd.

Bytes: q, k, v, beta and g once, o once; three times that forward and backward. Flops: those of the
recurrence, fewer than those of any parallel form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rlmem.kernels import delta_rule
from rlmem.kernels.delta_rule import delta_rule_reference, torch_form

from .base import Case, Form, Inputs, Op, Work

VARIANTS = ("plain", "decay")
LONGEST_LOOP = 1024  # steps, for the definition


def ours(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor, start: Tensor, *g: Tensor
) -> Tensor:
    return delta_rule(q, k, v, beta, g[0] if g else None, state, start)[0]


def reference(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor, start: Tensor, *g: Tensor
) -> Tensor:
    return delta_rule_reference(q, k, v, beta, g[0] if g else None, state, start)[0]


def autograd(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor, start: Tensor, *g: Tensor
) -> Tensor:
    """The operator's chunks, differentiated by autograd."""
    inputs = torch_form.Inputs(q, k, v, beta, g[0] if g else None, start)
    return torch_form.forward(inputs, state)[0]


def third_parties() -> Iterator[tuple[str, Form]]:
    """Installed third-party forms; they do not support starts within a row."""
    if find_spec("fla"):
        from fla.ops.delta_rule import chunk_delta_rule  # type: ignore[import-not-found]
        from fla.ops.gated_delta_rule import (  # type: ignore[import-not-found]
            chunk_gated_delta_rule,
        )

        def fla(*x: Tensor) -> Tensor:
            q, k, v, beta, state, _, *g = x
            more = {"scale": 1.0, "initial_state": state}
            if g:
                gated: Tensor = chunk_gated_delta_rule(q, k, v, g[0], beta, **more)[0]
                return gated
            plain: Tensor = chunk_delta_rule(q, k, v, beta, **more)[0]
            return plain

        yield "fla", fla


class DeltaRule(Op):
    name = "delta_rule"
    axes = "BxTxHxK"
    shapes = ((16, 128, 4, 32), (64, 512, 4, 32), (64, 512, 2, 64), (16, 4096, 4, 32))
    quick = ((64, 512, 4, 32),)
    gpu_shapes = (
        (1024, 128, 4, 32),
        (16, 4096, 4, 32),
        (256, 64, 2, 64),
        (1024, 128, 2, 64),
        (16, 65536, 4, 32),
    )
    tiny = (3, 40, 2, 8)
    variants = VARIANTS
    tolerance = 1e-3

    def forms(self, case: Case, device: str) -> Iterator[tuple[str, Form]]:
        yield "rlmem", ours
        if case.dtype == "float32":  # torch solves no triangular systems in bfloat16
            yield "autograd", autograd
        if case.shape[1] <= LONGEST_LOOP:
            yield "reference", reference
        if device == "cuda":
            yield from third_parties()

    def leading(self, case: Case) -> tuple[str, ...]:
        more = ("BT",) if case.variant == "decay" else ()
        return "BT", "BT", "BT", "BT", "B", "BT", *more

    def definition(self, case: Case, form: str) -> Form:
        return reference

    def inputs(self, case: Case, form: str, device: str) -> Inputs:
        rows, time, heads, size = case.shape
        q, k, v, grad = torch.randn(4, *case.shape, device=device)
        beta, g = torch.rand(2, rows, time, heads, device=device)
        state = torch.randn(rows, heads, size, size, device=device)
        # Third-party forms do not support starts: on CUDA, where they take part, there are none.
        often = 0.0 if device == "cuda" else 1 / 50
        start = torch.rand(rows, time, device=device) < often
        q, k = (F.normalize(x, dim=-1) for x in (q, k))
        more = (-g,) if case.variant == "decay" else ()
        return Inputs((q, k, v.clone(), beta, state, start, *more), grad)

    def work(self, case: Case) -> Work:
        rows, time, heads, size = case.shape
        elements, times = self.size(case.shape), 1 if case.passes == "forward" else 3
        numbers = 4 * elements + (2 if case.variant == "decay" else 1) * rows * time * heads
        # Flops: a prediction, a write and a read, 2 K V each.
        moved = case.itemsize * numbers * times
        return Work(elements, moved, 6 * elements * size * times)

    def modules(self) -> tuple[ModuleType, ModuleType]:
        from rlmem.kernels.delta_rule import triton_form, triton_kernels

        return triton_form, triton_kernels

    def launch(self, dtype: torch.dtype, odd: bool) -> None:
        from rlmem.kernels.delta_rule import triton_form

        for keys in triton_form.COLUMNS:
            launch(keys, True)
            if odd:
                launch(keys - 3, True)
                launch(keys, False)

    def describe(
        self, tensors: Mapping[str, Any], options: Mapping[str, Any]
    ) -> tuple[torch.dtype, dict[str, object]]:
        return tensors["k"].dtype, {
            "K": tensors["k"].shape[-1],
            "keys": options["KEYS"],
            "values": options["VALUES"],
            "given": "g" if tensors["g"] is not None else "",
        }


def launch(size: int, decay: bool) -> None:
    """Forward and backward with keys and values of `size` numbers."""
    from rlmem.kernels.delta_rule import triton_form

    shape = (2, 20, 2, size)
    q, k, v, o = torch.empty(4, *shape)
    beta, state = torch.empty(shape[:3]), torch.empty(2, 2, size, size)
    start = torch.empty(2, 20, dtype=torch.bool)
    inputs = torch_form.Inputs(q, k, v, beta, beta if decay else None, start)
    _, last, errors = triton_form.forward(inputs, state)
    triton_form.backward(o, last, inputs, state, o, last, errors)


OP = DeltaRule()
