"""The Triton kernels, compiled for real architectures on any machine: what runs must fit."""

from __future__ import annotations

from itertools import product

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux only")

import report_kernels
from ops.linear_scan import OP, launch
from report_kernels import ARCHITECTURES

from rlmem.kernels.linear_scan import gpu


def expected(dtype: torch.dtype) -> set[tuple[str, int, int, str, bool]]:
    """Kernel, block, unroll, gate, adjoint: what one dtype can lead to, its carries apart."""
    narrow, wide = gpu.NARROW[dtype.itemsize], gpu.WIDE[dtype.itemsize]
    want = set()
    for gate in ("constant", "[B, T, D]"):
        for config, kernel in product((narrow, wide), ("forward_kernel", "backward_kernel")):
            want.add((kernel, *config, gate, False))
        want |= {("summary_kernel", *narrow, gate, adjoint) for adjoint in (False, True)}
    return want


def test_the_tables_have_a_row_for_every_dtype() -> None:
    assert {dtype.itemsize for dtype in OP.dtypes} == set(gpu.NARROW) == set(gpu.WIDE)
    assert set(report_kernels.kernels(OP)) == {
        "forward_kernel",
        "backward_kernel",
        "summary_kernel",
    }


@pytest.mark.parametrize("dtype", OP.dtypes, ids=str)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_configuration_compiles_and_fits(arch: int, dtype: torch.dtype) -> None:
    rows = report_kernels.report(OP, arch, dtype, odd=False)
    name = str(dtype).removeprefix("torch.")
    got = {
        (row.kernel, row["block"], row["unroll"], row["gate"], "adjoint" in row["given"])
        for row in rows
        if row.dtype == name
    }
    assert got == expected(dtype)
    assert {row["given"] for row in rows if row.kernel == "forward_kernel"} >= {
        "h0 start",
        "h0 carry start",
        "start",
    }
    assert not report_kernels.misfits(rows)


def test_a_number_of_channels_without_vectors_fits() -> None:
    with report_kernels.recording(OP, 90) as rows:
        launch(torch.bfloat16, "narrow", constant=False, extra=3)
    assert len(rows) == 6
    assert not report_kernels.misfits(rows)


def test_spilling_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that asks for more registers than there are: the report must say so."""
    monkeypatch.setitem(gpu.WIDE, 16, gpu.Config(256, 1))
    with report_kernels.recording(OP, 90) as rows:
        launch(torch.complex128, "wide", True)
    assert rows[-1].kernel == "backward_kernel"
    assert rows[-1].stack > 0
    assert rows[-1].spills > 0
