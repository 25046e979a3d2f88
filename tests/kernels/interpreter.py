"""Runs test files in Triton's interpreter, which must be selected before Triton is imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.marks import by_night

HERE = Path(__file__).parent


# The interpreter takes up to 10,000 times the time of a GPU.
PART = pytest.mark.parametrize("every", [30, *by_night([1])], ids=["a part", "all"])


def run_interpreted(file: str, at_least: int, every: int) -> None:
    """Run every `every`-th test of `file` (in this folder) in the interpreter.

    They must pass, and be at least `at_least / every`; tests that need a GPU do not count.
    """
    ours = ("PYTEST_", "TRITON_", "COV_CORE_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment["RLMEM_EVERY"] = str(every)
    given = ["-o", "addopts=", "-q", "--strict-markers", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *given, str(HERE / file)],
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
    assert int(passed[1]) >= at_least / every, run.stdout
