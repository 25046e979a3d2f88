"""The Triton kernels, compiled ahead of time: every configuration must fit the hardware."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux only")

import report_kernels
from ops.matrix_memory import OP, launch

from rlmem.kernels.matrix_memory import triton_form
from tests.marks import by_night

KERNELS = {
    "state_kernel",
    "read_kernel",
    "state_backward_kernel",
    "value_backward_kernel",
    "key_backward_kernel",
}


def test_the_tables_have_an_entry_for_every_dtype() -> None:
    assert {dtype.itemsize for dtype in OP.dtypes} == set(triton_form.WARPS)
    assert set(report_kernels.kernels(OP)) == KERNELS


@pytest.mark.parametrize("dtype", OP.dtypes, ids=str)
@pytest.mark.parametrize("arch", [90, *by_night([80])])
def test_the_largest_kernels_fit(arch: int, dtype: torch.dtype) -> None:
    """All options, and sizes that prevent vectorised loads; the report compiles the other cases."""
    with report_kernels.recording(OP, arch) as rows:
        launch(dtype, 67, gated=True)
    assert {row.kernel for row in rows} == KERNELS
    assert all(
        row["tile"] == f"{triton_form.CHUNK}x{triton_form.LARGEST}x{triton_form.LARGEST}"
        for row in rows
    )
    assert not report_kernels.misfits(rows)


def test_the_smallest_kernels_fit() -> None:
    with report_kernels.recording(OP, 90) as rows:
        launch(torch.float32, 32, gated=False)
    assert {row["given"] for row in rows} == {""}
    assert not report_kernels.misfits(rows)
