"""The Triton kernels of the matrix memory, in Triton's interpreter."""

from __future__ import annotations

import pytest

from tests.kernels.interpreter import run_interpreted

pytest.importorskip("triton", "3.9", reason="older interpreters mistake scalar conditions")


@pytest.mark.parametrize("which", ["setting", pytest.param("not setting", marks=pytest.mark.slow)])
def test_kernels_in_the_interpreter(which: str) -> None:
    """In two halves; the one of all other tests runs at night."""
    run_interpreted("test_matrix_memory_triton.py", 8, "-k", which)
