"""The Triton kernels of the gated recurrent networks, in Triton's interpreter."""

from __future__ import annotations

import pytest

from tests.kernels.interpreter import PART, run_interpreted

pytest.importorskip("triton", "3.9", reason="older interpreters mistake scalar conditions")


@PART
def test_kernels_in_the_interpreter(every: int) -> None:
    run_interpreted("test_gated_rnn_triton.py", 18, every)
