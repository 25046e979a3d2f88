"""Random command lines, options and run folders; `scripts/fuzz_commands.py` makes more of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.common import ROOT


@pytest.mark.slow
def test_no_command_line_gives_a_traceback() -> None:
    # In a separate process: the annotations checked in tests would refuse many values earlier.
    script = ROOT / "scripts" / "fuzz_commands.py"
    counts = ["--lines", "24", "--options", "6", "--folders", "2", "--seconds", "60"]
    done = subprocess.run(
        [sys.executable, script, *counts], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
