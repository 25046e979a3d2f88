"""Arguments of the commands without Hydra: names, and KEY=VALUE with defaults in a YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from rlmem.cli.third_party import CONFIGS
from rlmem.errors import UsageError, unknown

# Options that are text, not lists: folders, files, places and a part of a name.
TEXTS = ("dir", "out", "only", "run", "env", "twin", "device")


def defaults(command: str) -> dict[str, Any]:
    """The options of a command with their defaults."""
    text = (CONFIGS / "command" / f"{command}.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def parse(
    command: str, arguments: Sequence[str], others: bool = False
) -> tuple[list[str], dict[str, Any], list[str]]:
    """Names, options and, if `others` are allowed, the KEY=VALUE of unknown keys as written.

    Raises `UsageError` for an unknown option, a flag, or a value of another type.
    """
    known = defaults(command)
    names, rest = [], []
    options = dict(known)
    for each in arguments:
        key, equals, value = each.partition("=")
        if each.startswith("-"):
            raise UsageError(f"rlmem {command} has no flag {each} (see rlmem {command} --help)")
        if not equals:
            names.append(each)
        elif key in known:
            options[key] = _value(key, value, known[key])
        elif others:
            rest.append(each)
        else:
            raise unknown(f"option of rlmem {command}", key, known)
    return names, options, rest


def as_list(value: Any) -> list[str]:
    """A value as a list of text: `[a,b]`, `a,b` or one value; None is empty."""
    if value is None:
        return []
    parts = value if isinstance(value, list) else str(value).split(",")
    return [str(part).strip() for part in parts if str(part).strip()]


def _value(key: str, text: str, default: Any) -> Any:
    if key in TEXTS or isinstance(default, str):
        return None if text in ("", "null") else text
    if default is None:
        return _listed(text)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if isinstance(default, list):
        return value if isinstance(value, list) else as_list(text)
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        wanted = {bool: "true or false", float: "a number"}.get(type(default), "an integer")
        raise UsageError(f"{key} must be {wanted}, not {text!r}")
    return value


def _listed(text: str) -> Any:
    if text in ("", "null"):
        return None
    return as_list(text[1:-1]) if text.startswith("[") and text.endswith("]") else text
