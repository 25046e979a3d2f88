"""The Triton kernels, compiled ahead of time: every configuration must fit the hardware."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux only")

import report_kernels
from ops.titans import LAUNCHES, OP, launch

KERNELS = {"forward_kernel", "error_kernel", "read_backward_kernel", "learn_backward_kernel"}


def test_the_kernels_are_those_of_the_report() -> None:
    assert set(report_kernels.kernels(OP)) == KERNELS
    assert OP.dtypes == (torch.float32,)


# A compilation takes a minute or more.
@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("case", LAUNCHES, ids=str)
def test_configurations_compile_and_fit(case: tuple[int, int, int], arch: int) -> None:
    with report_kernels.recording(OP, arch) as rows:
        launch(*case)
    assert {row.kernel for row in rows} == KERNELS
    assert not report_kernels.misfits(rows)


@pytest.mark.slow
@pytest.mark.parametrize("case", [(1, 61, 8), (2, 29, 8)], ids=str)
def test_odd_sizes_fit(case: tuple[int, int, int]) -> None:
    with report_kernels.recording(OP, 90) as rows:
        launch(*case)
    assert not report_kernels.misfits(rows)
