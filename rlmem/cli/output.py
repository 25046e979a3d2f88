"""Messages of the program on stderr."""

from __future__ import annotations

import sys


def print_error(error: Exception) -> None:
    """Print an error as one line on stderr."""
    print("rlmem:", " ".join(str(error).split()), file=sys.stderr)
