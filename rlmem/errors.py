"""User errors: one line with the given value, the allowed values and the nearest names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec


class UsageError(ValueError):
    """Bad input; the command line prints the message as one line and exits with code 2."""


@contextmanager
def reading(path: object) -> Iterator[None]:
    """Turn errors of reading a file, or of its content, into a `UsageError` of one line."""
    try:
        yield
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        text = str(error).partition("\n")[0]
        kind = "it has no" if isinstance(error, KeyError) else "it is damaged:"
        raise UsageError(f"cannot read {path}: {kind} {text}") from error


def unknown(kind: str, name: object, options: Iterable[str]) -> UsageError:
    """A `UsageError` for a name not in `options`; lists the nearest names, then all of them."""
    known = sorted(options)
    near = nearest(str(name), known)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return UsageError(f"unknown {kind} {name!r}{hint} (known: {', '.join(known) or 'none'})")


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The names most like `name`: by words (see `nearest_by_words`), else by letters.

    `lr` is `learning_rate` by initials, and `steps` is `total_steps` by words.
    """
    options = list(known)
    near = nearest_by_words(name, options)[:count]
    return near or difflib.get_close_matches(name, options, n=count, cutoff=0.5)


def nearest_by_words(name: str, known: Iterable[str]) -> list[str]:
    """The names spelled like `name` but for `_` and `-`, else by its initials or all its words."""
    options = {option: re.findall(r"[a-z0-9]+", option.lower()) for option in known}
    words = re.findall(r"[a-z0-9]+", name.lower())
    tests: list[Callable[[list[str]], bool]] = [
        lambda parts: "".join(parts) == "".join(words),
        lambda parts: len(name) > 1 and "".join(part[0] for part in parts) == name.lower(),
        lambda parts: bool(words) and set(words) <= set(parts),
    ]
    found = ([option for option in options if test(options[option])] for test in tests)
    return next(filter(None, found), [])


def install_hint(extra: str) -> str:
    """How to install the packages of an extra: of an installed rlmem, and in a checkout."""
    return f"pip install 'rlmem[{extra}]', in a checkout pip install -e '.[{extra}]'"


def need(module: str, what: str, extra: str, package: str | None = None) -> None:
    """Raise a `UsageError`, with the extra to install, if `module` (of `package`) is missing."""
    if find_spec(module) is None:
        raise UsageError(f"{what} needs {package or module}: {install_hint(extra)}")


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
