"""The linear scan: torch's own scan, loops, and third-party forms for GPUs.

`mamba` is the selective scan with one state per channel. Its arguments are steps and inputs, from
which it computes gate and value.

Bytes: 3 tensors forward (gate, value, h), 8 forward and backward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from itertools import product
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rlmem.kernels import linear_scan
from rlmem.kernels.linear_scan import linear_scan_reference

from .base import Case, Form, Inputs, Op, Work

DTYPES = {"real": torch.float32, "complex": torch.complex64}
LONGEST_UNROLLED = 128  # steps of a loop that torch.compile unrolls
TENSORS_MOVED = {"forward": 3, "both": 8}
FLOPS = {"real": 2, "complex": 8}
TABLES = ("narrow", "wide")


def associative(gate: Tensor, value: Tensor, mode: str = "generic") -> Tensor:
    """torch's own scan, with the operator of a linear recurrence."""
    from torch._higher_order_ops.associative_scan import associative_scan

    def combine(x: tuple[Tensor, ...], y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return x[0] * y[0], y[0] * x[1] + y[1]

    return associative_scan(combine, (gate, value), dim=1, combine_mode=mode)[1]


def pointwise(gate: Tensor, value: Tensor) -> Tensor:
    """The same in the mode that inductor compiles to one kernel; CUDA only."""
    return associative(gate, value, "pointwise")


def third_parties() -> Iterator[tuple[str, Form]]:
    """Installed third-party forms; their gates and layouts are prepared outside the timed part."""
    if find_spec("accelerated_scan"):
        from accelerated_scan.warp import scan  # type: ignore[import-not-found]

        yield "accelerated-scan", lambda gate, value: scan(gate.mT, value.mT).mT
    if find_spec("fla"):
        from fla.ops.hgrn import (  # type: ignore[import-not-found]
            chunk_hgrn,
            fused_recurrent_hgrn,
        )

        yield "fla-hgrn", lambda gate, value: fused_recurrent_hgrn(value, gate)[0]
        yield "fla-hgrn-chunk", lambda gate, value: chunk_hgrn(value, gate)[0]
    if find_spec("mamba_ssm"):
        from mamba_ssm.ops.selective_scan_interface import (  # type: ignore[import-not-found]
            selective_scan_fn,
        )

        def mamba(delta: Tensor, u: Tensor) -> Tensor:
            a = delta.new_full((delta.shape[-1], 1), -1.0, dtype=torch.float32)
            one = delta.new_ones(len(delta), 1, delta.shape[1])
            y: Tensor = selective_scan_fn(u.mT, delta.mT, a, one, one)
            return y.mT

        yield "mamba", mamba


def launch(dtype: torch.dtype, table: str, constant: bool, extra: int = 0) -> None:
    """Forward and backward, with a first state and starts, with that table's settings."""
    from rlmem.kernels.linear_scan import triton_form

    config = {"narrow": triton_form.NARROW, "wide": triton_form.WIDE}[table][dtype.itemsize]
    # Many rows, or one row long enough to be cut into chunks.
    rows, steps = (triton_form.MANY, 2) if table == "wide" else (1, triton_form.LONG)
    shape = rows, steps, config.block + extra
    if triton_form.launch_config(torch.Size(shape), dtype.itemsize).program != config:
        raise AssertionError(f"{shape} does not lead to {table} {config}")
    channels = shape[2]
    value = torch.empty(shape, dtype=dtype)
    gate = torch.empty((channels,) if constant else shape, dtype=dtype)
    h0 = torch.empty(rows, channels, dtype=dtype)
    start = torch.empty(rows, steps, dtype=torch.bool)
    triton_form.forward(gate, value, h0, start, False)
    triton_form.backward(value, gate, value, h0, start, False)


class LinearScan(Op):
    name = "linear_scan"
    axes = "BxTxD"
    shapes = tuple(
        (b, t, d) for t, b, d in product((128, 1024, 4096, 16384), (16, 64, 256), (64, 256))
    )
    quick = ((16, 128, 64), (16, 1024, 256), (16, 4096, 128), (16, 16384, 64))
    gpu_shapes = (
        (1024, 128, 128),
        (16, 4096, 128),
        (4096, 128, 256),
        (256, 64, 64),
        (16, 65536, 128),
    )
    tiny = (3, 40, 8)
    variants = tuple(DTYPES)
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.complex128)

    def forms(self, case: Case, device: str) -> Iterator[tuple[str, Form]]:
        yield "rlmem", linear_scan
        yield "reference", linear_scan_reference
        yield "associative", associative
        yield "associative-compiled", torch.compile(associative, fullgraph=True, dynamic=False)
        if device == "cuda":
            compiled = torch.compile(pointwise, fullgraph=True, dynamic=False)
            yield "associative-pointwise", compiled
        if case.shape[1] <= LONGEST_UNROLLED:
            yield "loop-compiled", torch.compile(linear_scan_reference, dynamic=False)
        if device == "cuda" and case.variant == "real":
            yield from third_parties()

    def leading(self, case: Case) -> tuple[str, ...]:
        return "BT", "BT"

    def definition(self, case: Case, form: str) -> Form:
        if form.startswith("fla"):
            return lambda log_gate, value: linear_scan_reference(log_gate.exp(), value)
        if form == "mamba":
            return lambda delta, u: linear_scan_reference((-delta).exp(), delta * u)
        return linear_scan_reference

    def precisions(self, variant: str) -> tuple[str, ...]:
        return ("float32",) if variant == "complex" else super().precisions(variant)

    def inputs(self, case: Case, form: str, device: str) -> Inputs:
        dtype = DTYPES[case.variant]
        gate = torch.rand(case.shape, device=device).sqrt()
        if dtype.is_complex:
            gate = torch.polar(gate, torch.rand(case.shape, device=device))
        value, grad_h = (torch.randn(case.shape, dtype=dtype, device=device) for _ in range(2))
        if form.startswith("fla"):
            gate = gate.log()
        elif form == "mamba":
            delta = -gate.log()
            gate, value = delta, value / delta
        elif form == "accelerated-scan":
            gate, value, grad_h = (x.mT.contiguous().mT for x in (gate, value, grad_h))
        return Inputs((gate, value), grad_h)

    def work(self, case: Case) -> Work:
        elements = self.size(case.shape)
        itemsize = case.itemsize * (2 if case.variant == "complex" else 1)
        moved = elements * itemsize * TENSORS_MOVED[case.passes]
        flops = elements * FLOPS[case.variant] * (1 if case.passes == "forward" else 3)
        return Work(elements, moved, flops)

    def modules(self) -> tuple[ModuleType, ModuleType]:
        from rlmem.kernels.linear_scan import triton_form, triton_kernels

        return triton_form, triton_kernels

    def launch(self, dtype: torch.dtype, odd: bool) -> None:
        for table, constant in product(TABLES, (False, True)):
            launch(dtype, table, constant)
            if odd and table == "narrow":
                launch(dtype, table, constant, extra=3)

    def describe(
        self, tensors: Mapping[str, Any], options: Mapping[str, Any]
    ) -> tuple[torch.dtype, dict[str, object]]:
        given = [name for name in ("h0", "carry", "start") if tensors.get(name) is not None]
        given += ["adjoint"] if options.get("ADJOINT") else []
        dtype, complex_ = tensors["gate"].dtype, options["COMPLEX"]
        return dtype.to_complex() if complex_ else dtype, {
            "block": options["BLOCK"],
            "unroll": options["UNROLL"],
            "channels": tensors["gate"].shape[-2 if complex_ else -1],
            "gate": "constant" if options["CONSTANT"] else "[B, T, D]",
            "given": " ".join(given),
        }


OP = LinearScan()
