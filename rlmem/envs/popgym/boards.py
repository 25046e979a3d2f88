"""Text of square boards."""

from __future__ import annotations

from collections.abc import Sequence


def text(squares: Sequence[str], size: int) -> str:
    """The board in words: one line for each row."""
    return "\n".join(" ".join(squares[i : i + size]) for i in range(0, len(squares), size))
