"""The Triton kernels, compiled for real architectures on any machine: what runs must fit."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="Triton is for Linux only")

import report_kernels
from ops.window_attention import OP, launch
from report_kernels import ARCHITECTURES

from rlmem.kernels.window_attention import gpu, ops

KERNELS = {"forward_kernel", "query_backward_kernel", "key_backward_kernel"}


def test_the_table_has_a_row_for_every_size() -> None:
    assert max(gpu.WARPS) == ops.WIDEST
    assert set(report_kernels.kernels(OP)) == KERNELS


@pytest.mark.parametrize("width", gpu.WARPS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_configuration_compiles_and_fits(arch: int, width: int) -> None:
    """With relative positions, which need most, and a memory whose size forbids vectors."""
    with report_kernels.recording(OP, arch) as rows:
        launch(width, True, past=67)
    block = f"{gpu.BLOCK}x{gpu.BLOCK}x{width}"
    assert {(row.kernel, row["block"], row["given"]) for row in rows} == {
        (kernel, block, "relative") for kernel in KERNELS
    }
    assert not report_kernels.misfits(rows)


def test_the_least_fits() -> None:
    """No positions; and a memory of one, a number that the compiler makes a constant."""
    with report_kernels.recording(OP, 90) as rows:
        launch(32, False)
        launch(20, True, past=1)
    assert {(row["block"], row["given"]) for row in rows} == {
        (f"{gpu.BLOCK}x{gpu.BLOCK}x32", given) for given in ("", "relative")
    }
    assert not report_kernels.misfits(rows)
