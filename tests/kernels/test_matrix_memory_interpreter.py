"""The Triton kernels in Triton's interpreter, which has to be chosen before Triton is imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", "3.9", reason="older interpreters mistake scalar conditions")

FILE = Path(__file__).with_name("test_matrix_memory_triton.py")


@pytest.mark.parametrize("which", ["setting", "not setting"])
def test_kernels_in_the_interpreter(which: str) -> None:
    """Two halves, so that two workers share them."""
    ours = ("PYTEST_", "TRITON_", "COV_CORE_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    options = ["-o", "addopts=", "-q", "--strict-markers", "-p", "no:cacheprovider", "-k", which]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(FILE)],
        cwd=FILE.parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None, run.stdout
    assert int(passed[1]) >= 8, run.stdout
