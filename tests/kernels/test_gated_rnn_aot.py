"""The Triton kernels, compiled for real architectures on any machine: what runs must fit."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="Triton is for Linux only")

import report_kernels
from ops.gated_rnn import OP, launch

from rlmem.kernels.gated_rnn import gpu

# Every configuration and every cell, on one architecture or the other; `report_kernels.py` compiles
# all of them for both.
CHOSEN = {
    80: [("lstm", 32), ("lstm", 64), ("slstm", 64), ("gru", 128)],
    90: [("gru", 16), ("slstm_exp", 32), ("gru", 64), ("slstm", 128)],
}


@pytest.mark.parametrize("arch", CHOSEN)
def test_configurations_compile_and_fit(arch: int) -> None:
    with report_kernels.recording(OP, arch) as rows:
        for cell, width in CHOSEN[arch]:
            launch(cell, width)
    got = {(row.kernel, row["cell"], row["d"], row["kept"]) for row in rows}
    assert got == {
        (kernel, cell, width, gpu.plan(cell, width)[1].kept)
        for kernel in report_kernels.kernels(OP)
        for cell, width in CHOSEN[arch]
    }
    assert not report_kernels.misfits(rows)


def test_the_choice_meets_every_configuration() -> None:
    plans = {gpu.plan(cell, width) for chosen in CHOSEN.values() for cell, width in chosen}
    assert plans >= set(gpu.CONFIGS.items())
    assert {config.kept for size, config in plans if size == gpu.LARGE} == {True, False}


def test_spilling_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices kept where there is no room for them: the report must say so."""
    monkeypatch.setattr(gpu, "LARGE", 0)
    with report_kernels.recording(OP, 90) as rows:
        launch("lstm", 61)
    assert report_kernels.misfits(rows)
