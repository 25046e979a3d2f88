"""Runs the command line program from a script."""

from __future__ import annotations

import subprocess
import sys


def rlmem(*arguments: str) -> None:
    """Run `rlmem` with these arguments; raises `CalledProcessError` if it fails."""
    subprocess.run([sys.executable, "-m", "rlmem", *arguments], check=True)
