"""The Triton kernels, compiled ahead of time: every configuration must fit the hardware."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux only")

import report_kernels
from ops.short_conv import OP, launch

from rlmem.kernels.short_conv import triton_form
from tests.marks import by_night

KERNELS = {"forward_kernel", "backward_kernel"}


def test_the_table_has_an_entry_for_every_dtype() -> None:
    assert set(triton_form.CONFIGS) == {dtype.itemsize for dtype in OP.dtypes}
    assert set(report_kernels.kernels(OP)) == KERNELS


@pytest.mark.parametrize(
    "dtype", [torch.float32, *by_night(x for x in OP.dtypes if x != torch.float32)], ids=str
)
@pytest.mark.parametrize("arch", [90, *by_night([80])])
def test_every_configuration_compiles_and_fits(arch: int, dtype: torch.dtype) -> None:
    """For any filter: its number of steps is no constant of the kernels."""
    rows = report_kernels.report(OP, arch, dtype, odd=False)
    config = triton_form.CONFIGS[dtype.itemsize]
    assert {(row.kernel, row["steps"], row["channels"]) for row in rows} == {
        (kernel, config.steps, config.channels) for kernel in KERNELS
    }
    assert not report_kernels.misfits(rows)


def test_an_odd_number_of_channels_fits() -> None:
    with report_kernels.recording(OP, 90) as rows:
        launch(torch.float32, 67, 4)
    assert len(rows) == 2
    assert not report_kernels.misfits(rows)
