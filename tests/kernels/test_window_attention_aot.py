"""The Triton kernels, compiled ahead of time: every configuration must fit the hardware."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="Triton is for Linux only")

import report_kernels
from ops.window_attention import OP, launch

from rlmem.kernels.window_attention import ops, triton_form
from tests.marks import by_night

KERNELS = {"forward_kernel", "query_backward_kernel", "key_backward_kernel"}


def test_the_table_has_an_entry_for_every_size() -> None:
    assert max(triton_form.WARPS) == ops.MAX_WIDTH
    assert set(report_kernels.kernels(OP)) == KERNELS


@pytest.mark.parametrize("width", [64, *by_night(x for x in triton_form.WARPS if x != 64)])
@pytest.mark.parametrize("arch", [90, *by_night([80])])
def test_every_configuration_compiles_and_fits(arch: int, width: int) -> None:
    """With relative positions, which need most, and a memory size that forbids vectorised loads."""
    with report_kernels.recording(OP, arch) as rows:
        launch(width, True, past=67)
    block = f"{triton_form.BLOCK}x{triton_form.BLOCK}x{width}"
    assert {(row.kernel, row["block"], row["given"]) for row in rows} == {
        (kernel, block, "relative") for kernel in KERNELS
    }
    assert not report_kernels.misfits(rows)


def test_the_smallest_kernels_fit() -> None:
    """No positions; and a memory of size one, which the compiler treats as a constant."""
    with report_kernels.recording(OP, 90) as rows:
        launch(32, False)
        launch(20, True, past=1)
    assert {(row["block"], row["given"]) for row in rows} == {
        (f"{triton_form.BLOCK}x{triton_form.BLOCK}x32", given) for given in ("", "relative")
    }
    assert not report_kernels.misfits(rows)
