"""The Triton kernels, compiled ahead of time: every configuration must fit the hardware."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux only")

import report_kernels
from ops.gated_rnn import OP, launch

from rlmem.kernels.gated_rnn import triton_form
from tests.marks import by_night

# Every configuration and every cell, each on one architecture; `report_kernels.py` compiles all of
# them for both.
CHOSEN = {
    80: [("lstm", 32), ("lstm", 64), ("slstm", 64), ("gru", 128)],
    90: [("gru", 16), ("slstm_exp", 32), ("gru", 64), ("slstm", 128)],
}


@pytest.mark.parametrize("arch", [90, *by_night([80])])
def test_configurations_compile_and_fit(arch: int) -> None:
    with report_kernels.recording(OP, arch) as rows:
        for cell, width in CHOSEN[arch]:
            launch(cell, width)
    got = {(row.kernel, row["cell"], row["d"], row["on_chip"]) for row in rows}
    assert got == {
        (kernel, cell, width, triton_form.launch_config(cell, width)[1].on_chip)
        for kernel in ("forward_kernel", "backward_kernel")
        for cell, width in CHOSEN[arch]
    }
    assert not report_kernels.misfits(rows)


def test_the_chosen_cases_cover_every_configuration() -> None:
    configs = {
        triton_form.launch_config(cell, width)
        for chosen in CHOSEN.values()
        for cell, width in chosen
    }
    assert configs >= set(triton_form.CONFIGS.items())
    assert {config.on_chip for size, config in configs if size == triton_form.LARGE} == {
        True,
        False,
    }


# Tiles in one program and shared out, in both dtypes; and units that prevent vectorised loads.
WIDE = {
    80: [
        ("gru", 256, "float32"),
        ("slstm", 512, "float32"),
        ("lstm", 125, "bfloat16"),
        ("slstm", 125, "float32"),
        ("gru", 256, "bfloat16"),
        ("lstm", 509, "bfloat16"),
    ],
    90: [
        ("gru", 125, "float32"),
        ("lstm", 253, "float32"),
        ("slstm_exp", 256, "float32"),
        ("gru", 512, "float32"),
        ("gru", 256, "bfloat16"),
        ("lstm", 509, "bfloat16"),
        ("slstm", 64, "bfloat16"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "case"), [(arch, case) for arch, cases in WIDE.items() for case in cases], ids=str
)
def test_wide_heads_compile_and_fit(arch: int, case: tuple[str, int, str]) -> None:
    cell, width, dtype = case
    with report_kernels.recording(OP, arch) as rows:
        launch(cell, width, getattr(torch, dtype))
    assert {(row.kernel, row.dtype, row["d"]) for row in rows} == {
        ("wide_forward_kernel", dtype, width),
        ("wide_backward_kernel", dtype, width),
    }
    assert not report_kernels.misfits(rows)


@pytest.mark.slow
@pytest.mark.parametrize("width", [13, 32, 64])
def test_products_of_bfloat16_on_chip_fit(width: int) -> None:
    with report_kernels.recording(OP, 90) as rows:
        launch("lstm", width, torch.bfloat16)
    assert {(row.kernel, row.dtype) for row in rows} == {
        ("forward_kernel", "bfloat16"),
        ("backward_kernel", "bfloat16"),
    }
    assert not report_kernels.misfits(rows)


def test_the_report_detects_spills(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices are kept on chip although they do not fit: the report must detect it."""
    monkeypatch.setattr(triton_form, "LARGE", 0)
    with report_kernels.recording(OP, 90) as rows:
        launch("lstm", 61)
    assert report_kernels.misfits(rows)
