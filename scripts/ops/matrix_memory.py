"""The matrix memory as in mLSTM and in RetNet: the loop, and third-party forms for GPUs.

Bytes: q, k, v and h, once per direction. Flops: those of the recurrence, 4 per entry of the state
forward (update and output) and twice as many backward; a chunked form computes more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from itertools import product
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rlmem.kernels import matrix_memory
from rlmem.kernels.matrix_memory import matrix_memory_reference

from .base import Case, Form, Inputs, Op, Work

OPTIONS: dict[str, dict[str, Any]] = {
    "mlstm": {"normalizer": "max", "eps": 1e-6},
    "retention": {"forget": "exponential"},
}
TENSORS_MOVED = {"forward": 4, "both": 11}
LONGEST_LOOP = 1024  # steps, for a loop under autograd


def definition(variant: str) -> Form:
    """The reference on q, k, v and the gates of the variant."""
    return form(matrix_memory_reference, variant)


def form(function: Callable[..., Any], variant: str) -> Form:
    """`function` on q, k, v and the gates of the variant."""

    def run(q: Tensor, k: Tensor, v: Tensor, f: Tensor, *i: Tensor) -> Tensor:
        return function(q, k, v, i[0] if i else None, f, **OPTIONS[variant]).h

    return run


def third_parties(variant: str) -> Iterator[tuple[str, Form]]:
    """Installed third-party forms that compute the same."""
    if variant == "retention" and find_spec("fla"):
        from fla.ops.simple_gla import chunk_simple_gla  # type: ignore[import-not-found]

        yield (
            "fla-simple-gla",
            lambda q, k, v, f: chunk_simple_gla(q, k, v, f.expand(q.shape[:3]), scale=1.0)[0],
        )


class MatrixMemory(Op):
    name = "matrix_memory"
    axes = "BxTxHxD"
    shapes = (
        (64, 512, 4, 32),
        *((64, t, 4, 32) for t in (128, 2048)),
        *((4, t, 4, 32) for t in (512, 2048, 8192, 16384)),
        (16, 1024, 4, 64),
    )
    quick = ((64, 512, 4, 32), (4, 512, 4, 32), (4, 16384, 4, 32))
    gpu_shapes = (
        (1024, 128, 4, 32),
        (16, 4096, 4, 32),
        (256, 64, 4, 64),
        (1024, 128, 4, 64),
        (16, 65536, 4, 32),
    )
    tiny = (3, 40, 2, 16)
    variants = tuple(OPTIONS)
    dtypes = (torch.float32, torch.bfloat16)

    def forms(self, case: Case, device: str) -> Iterator[tuple[str, Form]]:
        yield "rlmem", form(matrix_memory, case.variant)
        if case.shape[1] <= LONGEST_LOOP:
            yield "reference", definition(case.variant)
        if device == "cuda":
            yield from third_parties(case.variant)

    def leading(self, case: Case) -> tuple[str, ...]:
        gates = ("",) if case.variant == "retention" else ("BT", "BT")
        return "BT", "BT", "BT", *gates

    def definition(self, case: Case, form: str) -> Form:
        return definition(case.variant)

    def inputs(self, case: Case, form: str, device: str) -> Inputs:
        q, k, v, grad = (torch.randn(case.shape, device=device) for _ in range(4))
        k = k * case.shape[-1] ** -0.5
        if case.variant == "retention":
            heads = torch.arange(case.shape[2], device=device)
            return Inputs((q, k, v, torch.log1p(-(2.0 ** (-5 - heads)))), grad)
        i, f = (torch.randn(case.shape[:3], device=device) for _ in range(2))
        return Inputs((q, k, v, f + 4, i), grad)

    def work(self, case: Case) -> Work:
        elements = self.size(case.shape)
        passes = 1 if case.passes == "forward" else 3
        moved = case.itemsize * elements * TENSORS_MOVED[case.passes]
        return Work(elements, moved, 4 * passes * elements * case.shape[-1])

    def modules(self) -> tuple[ModuleType, ModuleType]:
        from rlmem.kernels.matrix_memory import triton_form, triton_kernels

        return triton_form, triton_kernels

    def launch(self, dtype: torch.dtype, odd: bool) -> None:
        sizes = (16, 32, 64) if not odd else (16, 32, 64, 67)
        for size, gated in product(sizes, (False, True)):
            launch(dtype, size, gated)

    def describe(
        self, tensors: Mapping[str, Any], options: Mapping[str, Any]
    ) -> tuple[torch.dtype, dict[str, object]]:
        like = next(tensors[name] for name in "qk" if name in tensors)
        optional = ("state", "grad_last", "episode", "m", "scale")
        given = [name for name in optional if tensors.get(name) is not None]
        return like.dtype, {
            "size": like.shape[-1],
            "tile": f"{options['C']}x{options['BK']}x{options['BV']}",
            "normalizer": options["NORM"],
            "given": " ".join(given),
        }


def launch(dtype: torch.dtype, size: int, gated: bool) -> None:
    """Forward and backward, with gates, normaliser, starts and states if `gated`, else without."""
    from rlmem.kernels.matrix_memory import triton_form

    q, k, v, grad = (torch.zeros(2, 70, 2, size, dtype=dtype) for _ in range(4))
    lf = torch.zeros(2, 70, 2)
    if gated:
        gate, start = torch.zeros_like(lf), torch.zeros(2, 70, dtype=torch.bool)
        state, m0 = torch.zeros(2, 2, size, size + 1), torch.zeros(2, 2)
        saved = triton_form.forward(q, k, v, gate, lf, state, m0, start, "max", 1e-6)
        grads = (grad, torch.zeros_like(state), gate)
        triton_form.backward(*grads, q, k, v, gate, lf, m0, start, saved, "max", 1e-6)
        return
    saved = triton_form.forward(q, k, v, None, lf, None, None, None, "none", 0.0)
    triton_form.backward(grad, None, None, q, k, v, None, lf, None, None, saved, "none", 0.0)


OP = MatrixMemory()
