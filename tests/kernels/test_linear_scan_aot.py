"""The Triton kernels, compiled ahead of time: every configuration must fit the hardware."""

from __future__ import annotations

from itertools import product

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux only")

import report_kernels
from ops.linear_scan import OP, launch

from rlmem.kernels.linear_scan import triton_form
from tests.marks import by_night


def expected(dtype: torch.dtype) -> set[tuple[str, int, int, str, bool]]:
    """Kernel, block, unroll, gate, adjoint: all combinations for one dtype but those of carries."""
    narrow, wide = triton_form.NARROW[dtype.itemsize], triton_form.WIDE[dtype.itemsize]
    want = set()
    for gate in ("constant", "[B, T, D]"):
        for config, kernel in product((narrow, wide), ("forward_kernel", "backward_kernel")):
            want.add((kernel, *config, gate, False))
        want |= {("summary_kernel", *narrow, gate, adjoint) for adjoint in (False, True)}
    return want


def test_the_tables_have_an_entry_for_every_dtype() -> None:
    assert (
        {dtype.itemsize for dtype in OP.dtypes} == set(triton_form.NARROW) == set(triton_form.WIDE)
    )
    assert set(report_kernels.kernels(OP)) == {
        "forward_kernel",
        "backward_kernel",
        "summary_kernel",
    }


@pytest.mark.parametrize(
    "dtype", [torch.float32, *by_night(x for x in OP.dtypes if x != torch.float32)], ids=str
)
@pytest.mark.parametrize("arch", [90, *by_night([80])])
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


def test_an_odd_number_of_channels_fits() -> None:
    with report_kernels.recording(OP, 90) as rows:
        launch(torch.bfloat16, "narrow", constant=False, extra=3)
    assert len(rows) == 6
    assert not report_kernels.misfits(rows)


def test_the_report_detects_spills(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block needs more registers than exist: the report must detect it."""
    monkeypatch.setitem(triton_form.WIDE, 16, triton_form.ProgramConfig(256, 1))
    with report_kernels.recording(OP, 90) as rows:
        launch(torch.complex128, "wide", True)
    assert rows[-1].kernel == "backward_kernel"
    assert rows[-1].stack > 0
    assert rows[-1].spills > 0
