"""User errors: one line with the given value, the allowed values and the nearest names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Bad input; the command line prints the message as one line and exits with code 2."""


def unknown(kind: str, name: object, options: Iterable[str]) -> UsageError:
    """A `UsageError` for a name not in `options`; lists the nearest names, then all of them."""
    known = sorted(options)
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return UsageError(f"unknown {kind} {name!r}{hint} (known: {', '.join(known) or 'none'})")


def at_least(name: str, value: int, least: int) -> int:
    """Return `value`, an integer of at least `least`; else raise a `UsageError` with `name`."""
    if not isinstance(value, int) or value < least:
        raise UsageError(f"{name} must be an integer of at least {least}, not {value!r}")
    return value


def positive(name: str, value: int) -> int:
    """Return `value`, an integer of at least 1; else raise a `UsageError` with `name`."""
    return at_least(name, value, 1)


def fraction(name: str, value: float) -> float:
    """Return `value`, a number from 0 to 1; else raise a `UsageError` with `name`."""
    if not 0 <= value <= 1:
        raise UsageError(f"{name} must be between 0 and 1, not {value}")
    return value
