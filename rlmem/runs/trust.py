"""Trust in a run folder: code that its files name is imported only with `trust=true`.

Names of installed entry points and of rlmem are no code of the folder. A place that the user gives
on the command line is trusted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlmem.errors import UsageError

# Ids of Gymnasium that take the place of other code as an option.
WRAPPERS = re.compile(r"GymV\d+Environment")
# Options that name a folder to write to.
WRITTEN = ("record", "algo.replay.directory")


def require_code(
    config: Mapping[str, Any], where: str | Path, trusted: bool, given: Collection[str] = ()
) -> None:
    """Raise a `UsageError` for code that a configuration of `where` names, unless it is `trusted`.

    `given` are the options that the user has given now.
    """
    for key, place in () if trusted else code(config):
        if not _is_given(key, given):
            own = ", or give env=... yourself" if key == "env.id" else ""
            raise UsageError(
                f"{where} names code to import, {key}={place}: add trust=true if you trust this "
                f"folder, whose code then runs{own}"
            )


def require_places(
    config: Mapping[str, Any], where: str | Path, trusted: bool, given: Collection[str] = ()
) -> None:
    """Raise a `UsageError` for places outside of `where` that a training would write to."""
    for key in () if trusted else (*WRITTEN, "log.mlflow_uri"):
        place = select(config, key)
        outside = place is not None and (key not in WRITTEN or not is_inside(place, where))
        if outside and not _is_given(key, given):
            raise UsageError(
                f"{where} names a place outside to write to, {key}={place}: add it yourself, or "
                "trust=true"
            )


def code(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The options of a configuration that name code to import, with their values."""
    env = str(select(config, "env.id") or "")
    if ":" in env.removeprefix("object:") or env.endswith(".py") or WRAPPERS.search(env):
        yield "env.id", env
    for key, value in _texts(select(config, "env.kwargs"), "env.kwargs"):
        if re.search(r"\w:\w", value):
            yield key, value
    for key in ("policy.encoder", "encoder"):
        encoder = select(config, key)
        if isinstance(encoder, str) and ":" in encoder:
            yield key, encoder


def option(config: Mapping[str, Any]) -> str:
    """The option that a command for a run of this configuration needs; empty for none."""
    return " trust=true" if any(True for _ in code(config)) else ""


def is_inside(place: str | Path, folder: str | Path) -> bool:
    """Whether a path lies in a folder, links followed."""
    return Path(os.path.realpath(place)).is_relative_to(os.path.realpath(folder))


def select(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None without one."""
    found: Any = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _is_given(key: str, given: Collection[str]) -> bool:
    """Whether an option, or a group that it is in, is among the given ones."""
    return any(key == each or key.startswith(f"{each}.") for each in given)


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _texts(part, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part, key)
    elif isinstance(value, str):
        yield key, value
