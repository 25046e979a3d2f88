"""Errors that a user can mend: one clear line that says what was given and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Bad input from a user; the command line prints it as one line and exits with code 2."""


def unknown(kind: str, name: object, options: Iterable[str]) -> UsageError:
    """A `UsageError` for a name that is not among `options`, with the nearest ones first."""
    known = sorted(options)
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return UsageError(f"unknown {kind} {name!r}{hint} (known: {', '.join(known) or 'none'})")


def at_least(name: str, value: int, least: int) -> int:
    """`value` if it is an int of at least `least`; else a `UsageError` that names it."""
    if not isinstance(value, int) or value < least:
        raise UsageError(f"{name} must be an integer of at least {least}, not {value!r}")
    return value


def positive(name: str, value: int) -> int:
    """`value` if it is an int of at least 1; else a `UsageError` that names it."""
    return at_least(name, value, 1)


def share(name: str, value: float) -> float:
    """`value` if it is between 0 and 1; else a `UsageError` that names it."""
    if not 0 <= value <= 1:
        raise UsageError(f"{name} must be between 0 and 1, not {value}")
    return value
