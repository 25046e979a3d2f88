"""The Triton kernels, compiled ahead of time: every configuration must fit the hardware."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux only")

import report_kernels
from ops.delta_rule import OP, launch

from rlmem.kernels.delta_rule import ops, triton_form
from tests.marks import by_night


@pytest.mark.parametrize("arch", [90, *by_night([80])])
def test_every_configuration_compiles_and_fits(arch: int) -> None:
    rows = report_kernels.report(OP, arch, torch.float32, odd=False)
    got = {(row.kernel, row["keys"], row["values"], row["given"]) for row in rows}
    assert max(triton_form.COLUMNS) == ops.MAX_WIDTH
    assert got == {
        (kernel, keys, min(keys, columns), "g")
        for kernel in report_kernels.kernels(OP)
        for keys, (columns, _) in triton_form.COLUMNS.items()
    }
    assert not report_kernels.misfits(rows)


def test_odd_sizes_without_decay_fit() -> None:
    with report_kernels.recording(OP, 90) as rows:
        launch(61, True)
        launch(64, False)
    assert len(rows) == 6
    assert not report_kernels.misfits(rows)
