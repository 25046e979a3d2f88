"""Small files of a run folder, read with care: `config.yaml`, `agent.json` and `tasks.json`.

A folder may be damaged, or a stranger's. Files are sealed: a change after rlmem wrote them is named
in a line. For a file that cannot be read, the copy in the newest checkpoint is used.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from rlmem.errors import UsageError
from rlmem.files import read_text
from rlmem.runs import checkpoint_folders, manifest, sealed

CONFIG = "config.yaml"
# LibYAML's loader is ten times faster, where it is built.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MAX_YAML, MAX_DEPTH = 2**20, 40
SEAL = "# sha256 of the lines above: "
# Options that take any keys.
FREE = ("kwargs", "encoder_options", "options")
# Options that a moved, copied or resumed run changes.
PLACES = ("run_dir", "resume", "checkpoint")


def config_text(run: Path) -> str:
    """The configuration of a run as YAML; lines on stderr for a change since rlmem wrote it.

    Raises `UsageError` if it cannot be read and no checkpoint has a copy.
    """
    path = run / CONFIG
    step, copy = _newest_copy(run, CONFIG)
    try:
        text = read_text(path, MAX_YAML)
        content = plain_yaml(text)
        if not isinstance(content, Mapping):
            raise ValueError("it has no options")
    except (OSError, ValueError) as error:
        if copy is None:
            raise UsageError(f"cannot read {path}: {_reason(error)}") from error
        manifest.note(f"cannot read {path}: {_reason(error)}; using its copy of step {step:,}")
        return copy
    if not _is_sealed(text) and (copy is not None or SEAL in text):
        before = content if copy is None else plain_yaml(copy)
        if copy is not None and (odd := _misfit(before, content)):
            manifest.note(f"cannot use {path}: {odd}; using its copy of step {step:,}")
            return copy
        changes = list(differences(before, content))
        if changes or copy is None:
            what = ", ".join(changes[:3]) or "a change"
            since = "rlmem wrote it" if copy is None else f"step {step:,}"
            manifest.note(f"{path} was edited (or damaged) since {since}: {what}; using it")
    return text


def seal_config(text: str) -> str:
    """A configuration with its seal in the last line."""
    return f"{text}{SEAL}{hashlib.sha256(text.encode()).hexdigest()}\n"


def sealed_text(run: Path, name: str, check: Callable[[str], Any]) -> str | None:
    """The text of a sealed JSON file of a run; None if there is none and no checkpoint has a copy.

    `check` raises an exception for content that cannot be used. Raises `UsageError` for a damaged
    file without a copy.
    """
    path = run / name
    step, copy = _newest_copy(run, name)
    try:
        text = read_text(path)
        sealed.unseal(text)
        check(text)
        return text
    except FileNotFoundError:
        reason = "it is missing"
        if copy is None:
            return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = _reason(error)
        if copy is None:
            raise UsageError(f"{path} is damaged: {reason}") from error
    manifest.note(f"cannot read {path}: {reason}; using its copy of step {step:,}")
    return copy


def plain_yaml(text: str) -> Any:
    """The content of YAML with plain values only.

    Raises a ValueError for anything that could grow or refer to something outside: aliases, tags,
    interpolations (`${...}`), and deep nesting.
    """
    depth = 0
    try:
        for event in yaml.parse(text, LOADER):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise ValueError("it has an alias")
            if isinstance(event, yaml.ScalarEvent) and "${" in event.value:
                raise ValueError(f"it has an interpolation, {event.value[:60]}")
            if not isinstance(event, yaml.ScalarEvent) and getattr(event, "tag", None):
                raise ValueError(f"it has a tag, {event.tag[:60]}")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError("its content is nested too deeply")
        return yaml.load(text, LOADER)
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML: {_reason(error)}") from error


def _newest_copy(run: Path, name: str) -> tuple[int, str | None]:
    """The step and text of the newest copy of a file in a readable manifest; None without one."""
    present = checkpoint_folders.steps(run)
    paths = {step: checkpoint_folders.of_step(run, step) for step in present}
    identity = manifest.run_id(run, paths.values())
    for step, path in reversed(paths.items()):
        found = manifest.readable(path)
        if found is not None and found.run == identity and name in found.copies:
            return step, found.copies[name]
    return 0, None


def _is_sealed(text: str) -> bool:
    body, mark, seal = text.rpartition(SEAL)
    return bool(mark) and hashlib.sha256(body.encode()).hexdigest() == seal.strip()


def differences(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """The values of `now` that are other ones in `before`, in words (not those of places)."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in {**before, **now}:
            if key or name not in PLACES:
                yield from differences(before.get(name), now.get(name), f"{key}.{name}".strip("."))
    elif before != now and not (before != before and now != now):
        yield f"{key} is {str(now)[:40]}, and was {str(before)[:40]}"


def _misfit(before: Any, now: Any, key: str = "configuration") -> str | None:
    """A key or a type of `now` that `before` does not have, in words; None without one."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        odd = [] if key.rpartition(".")[2] in FREE else sorted(set(before) ^ set(now), key=str)
        if odd:
            return f"{str(odd[0])[:40]!r} of {key} is missing or unknown"
        parts = (_misfit(before[name], now[name], str(name)) for name in set(before) & set(now))
        return next(filter(None, parts), None)
    numbers = all(isinstance(each, int | float) for each in (before, now))
    if before is None or now is None or numbers or type(before) is type(now):
        return None
    return f"{key} is {str(now)[:40]!r}, and was {str(before)[:40]!r}"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return re.sub(r"\s+", " ", (str(error).splitlines() or [type(error).__name__])[0])[:200]
