"""The command line, as a user calls it."""

from __future__ import annotations

import subprocess
import sys


def rlmem(*arguments: str) -> None:
    """Run `rlmem` with these arguments; raises CalledProcessError where it fails."""
    subprocess.run([sys.executable, "-m", "rlmem", *arguments], check=True)
