"""The Triton kernels, compiled for real architectures on any machine: what runs must fit."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux only")

import report_kernels
from ops.matrix_memory import OP, launch
from report_kernels import ARCHITECTURES

from rlmem.kernels.matrix_memory import gpu

KERNELS = {
    "state_kernel",
    "read_kernel",
    "state_backward_kernel",
    "value_backward_kernel",
    "key_backward_kernel",
}


def test_the_tables_have_a_row_for_every_dtype() -> None:
    assert {dtype.itemsize for dtype in OP.dtypes} == set(gpu.WARPS)
    assert set(report_kernels.kernels(OP)) == KERNELS


@pytest.mark.parametrize("dtype", OP.dtypes, ids=str)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_what_needs_most_fits(arch: int, dtype: torch.dtype) -> None:
    """Every option, and sizes that forbid vectors of numbers; the report has the rest."""
    with report_kernels.recording(OP, arch) as rows:
        launch(dtype, 67, gated=True)
    assert {row.kernel for row in rows} == KERNELS
    assert all(row["tile"] == f"{gpu.CHUNK}x{gpu.LARGEST}x{gpu.LARGEST}" for row in rows)
    assert not report_kernels.misfits(rows)


def test_the_least_fits() -> None:
    with report_kernels.recording(OP, 90) as rows:
        launch(torch.float32, 32, gated=False)
    assert {row["given"] for row in rows} == {""}
    assert not report_kernels.misfits(rows)
