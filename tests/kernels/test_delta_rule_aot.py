"""The Triton kernels, compiled for real architectures on any machine: what runs must fit."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux only")

import report_kernels
from ops.delta_rule import OP, launch
from report_kernels import ARCHITECTURES

from rlmem.kernels.delta_rule import gpu, ops


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_configuration_compiles_and_fits(arch: int) -> None:
    rows = report_kernels.report(OP, arch, torch.float32, odd=False)
    got = {(row.kernel, row["keys"], row["values"], row["given"]) for row in rows}
    assert max(gpu.COLUMNS) == ops.WIDEST
    assert got == {
        (kernel, keys, min(keys, columns), "g")
        for kernel in report_kernels.kernels(OP)
        for keys, (columns, _) in gpu.COLUMNS.items()
    }
    assert not report_kernels.misfits(rows)


def test_odd_sizes_and_no_decay_fit() -> None:
    with report_kernels.recording(OP, 90) as rows:
        launch(61, True)
        launch(64, False)
    assert len(rows) == 6
    assert not report_kernels.misfits(rows)
