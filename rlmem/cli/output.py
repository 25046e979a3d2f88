"""Messages of the program: errors on one line of stderr, and unknown options."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rlmem.errors import UsageError, nearest, nearest_by_words, unknown
from rlmem.ranks import group as ranks


def print_error(error: Exception) -> None:
    """Print an error as one line on stderr.

    All ranks have the errors before they have joined; rank 0 prints them.
    """
    if ranks.launched()[0] and not ranks.several():
        return
    print("rlmem:", " ".join(str(error).split()), file=sys.stderr)


def unknown_key(key: str, top: Sequence[str], leaves: Sequence[str]) -> UsageError:
    """The error for an unknown option; `leaves` are all options, with those of groups (algo.gamma).

    `top` are the options and groups at the top. An option of a group may be meant by its own name.
    """
    group, _, option = key.partition(".")
    siblings = [name.removeprefix(f"{group}.") for name in leaves if name.startswith(f"{group}.")]
    if option and siblings:
        return unknown(f"key of {group}:", option, siblings)
    inside = [name for name in leaves if "." in name]
    last = {name: name.rpartition(".")[2] for name in [*top, *inside]}
    by_words = nearest_by_words(key, dict.fromkeys(last.values()))
    near = [name for name in last if last[name] == key]
    near = near or [name for name in last if last[name] in by_words]
    if not near and not nearest(key, top):
        near = nearest(key, inside)
    if near:
        return UsageError(f"unknown key {key!r}; did you mean {' or '.join(near[:4])}?")
    return unknown("key", key, top)
