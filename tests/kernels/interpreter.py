"""Runs test files in Triton's interpreter, which must be selected before Triton is imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def run_interpreted(file: str, at_least: int, *options: str) -> None:
    """Run `file` (in this folder) in the interpreter; all tests must pass, at least `at_least`."""
    ours = ("PYTEST_", "TRITON_", "COV_CORE_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    given = ["-o", "addopts=", "-q", "--strict-markers", "-p", "no:cacheprovider", *options]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *given, str(HERE / file)],
        cwd=HERE.parents[1],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None, run.stdout
    assert int(passed[1]) >= at_least, run.stdout
