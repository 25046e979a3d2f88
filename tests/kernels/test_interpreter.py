"""All Triton kernels in Triton's interpreter, which must be selected before Triton is imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Files, and the least number of their tests that run without a GPU.
FILES = {
    "test_delta_rule_triton.py": 12,
    "test_gated_rnn_triton.py": 50,
    "test_linear_scan_triton.py": 50,
    "test_matrix_memory_triton.py": 16,
    "test_short_conv_triton.py": 50,
    "test_titans_triton.py": 19,
    "test_window_attention_triton.py": 14,
}

pytest.importorskip("triton", "3.9", reason="older interpreters mistake scalar conditions")


def run_interpreted(files: Sequence[str], every: int) -> None:
    """Run every `every`-th test of `files` in the interpreter; tests that need a GPU are left out.

    All must pass, and be at least a part `1 / every` of the numbers in `FILES`.
    """
    ours = ("PYTEST_", "TRITON_", "COV_CORE_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment["RLMEM_EVERY"] = str(every)
    given = ["-o", "addopts=", "-q", "--strict-markers", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *given, *(str(HERE / file) for file in files)],
        cwd=HERE.parents[1],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None, run.stdout
    assert int(passed[1]) >= sum(FILES[file] for file in files) / every, run.stdout


# The interpreter takes up to 10,000 times the time of a GPU.
def test_a_part_of_all_kernels() -> None:
    run_interpreted(list(FILES), 30)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_all_kernels(file: str) -> None:
    run_interpreted([file], 1)
