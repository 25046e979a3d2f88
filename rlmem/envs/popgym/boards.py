"""Square boards, row by row."""

from __future__ import annotations

from collections.abc import Sequence


def text(squares: Sequence[str], size: int) -> str:
    """A line for each row, for a person to read."""
    return "\n".join(" ".join(squares[i : i + size]) for i in range(0, len(squares), size))
