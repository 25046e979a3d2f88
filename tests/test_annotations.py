"""A part of the tests of memory with checked annotations: shapes and dtypes of every argument."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("tests/cores", "tests/kernels", "tests/policies")

pytest.importorskip("beartype")


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    outer = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env={**outer, "RLMEM_CHECK_TYPES": "memory", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_annotations_are_true() -> None:
    # 127 divides neither the number of cores nor that of cases: every core has its turn.
    done = run(*FOLDERS, RLMEM_EVERY="127")
    assert done.returncode == 0, done.stdout[-3000:]
    found = re.search(r"(\d+) passed", done.stdout)
    assert found is not None
    assert int(found[1]) > 30


@pytest.mark.slow
def test_a_wrong_shape_is_noticed(tmp_path: Path) -> None:
    """The checks are on: a call that the annotations of an inner function refuse."""
    file = tmp_path / "test_wrong.py"
    file.write_text(
        "import torch\nfrom rlmem.cores import segments\n"
        "def test_wrong():\n"
        "    segments.scan_in_segments(None, torch.zeros(2, 3), None, torch.zeros(2, 3), 1)\n"
    )
    done = run(
        "-c",
        str(ROOT / "pyproject.toml"),
        "--rootdir",
        str(ROOT),
        "-p",
        "tests.conftest",
        str(file),
    )
    assert "TypeCheckError" in done.stdout, done.stdout[-2000:]
