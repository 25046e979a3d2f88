"""The Triton kernels of the linear scan, in Triton's interpreter."""

from __future__ import annotations

import pytest

from tests.kernels.interpreter import run_interpreted

pytest.importorskip("triton", "3.9", reason="older interpreters mistake scalar conditions")


@pytest.mark.parametrize("which", ["float", pytest.param("not float", marks=pytest.mark.slow)])
def test_kernels_in_the_interpreter(which: str) -> None:
    """In two halves; the complex one runs at night."""
    run_interpreted("test_linear_scan_triton.py", 25, "-k", which)
