"""Overrides of the command line, made readable for Hydra: paths, `~`, letters beyond ASCII."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

from rlmem.cli.hydra_errors import GROUPS
from rlmem.errors import UsageError

PATHS = (
    "run_dir",
    "run",
    "resume",
    "record",
    "baseline",
    "out",
    "to",
    "algo.dataset",
    "algo.replay.directory",
    "hydra.sweep.dir",
)


def check(overrides: Sequence[str]) -> None:
    """Raise a `UsageError` for overrides that Hydra allows, but that no command can use.

    Groups and options cannot be removed, and a group has one member.
    """
    for override in overrides:
        if override.startswith("~"):
            raise UsageError(f"{override}: an option cannot be removed, only changed")
        key, equals, value = override.partition("=")
        key = key.lstrip("+")
        if not key:
            raise UsageError(f"cannot read {override!r}: write options as key=value")
        if key in (*GROUPS, "tuned", "experiment") and _is_number(value):
            raise UsageError(f"{key} must be a name, not {value} (rlmem list shows the names)")
        if key == "tuned" and value in ("", "null"):
            raise UsageError("tuned needs a name (tuned=none: plain defaults of the groups)")
        if key in GROUPS and equals and value in ("", "null"):
            raise UsageError(f"{key} needs a name (rlmem list shows the names)")
        if key in (*GROUPS, "tuned", "experiment") and value[:1] in ("[", "{"):
            raise UsageError(
                f"{key} must be one name, not {value}; for one run per name, add -m and write "
                f"{key}=NAME,NAME"
            )
        if key in PATHS and equals and not value:
            raise UsageError(f"{key} is empty: give a folder")


def _is_number(text: str) -> bool:
    """Whether Hydra reads one of the values of a sweep as a number or a flag."""
    number = r"(?i)[+-]?(\d[\d_]*\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|nan)|true|false"
    return any(re.fullmatch(number, each.strip()) for each in text.split(","))


def readable(overrides: Sequence[str], with_env: bool = True) -> list[str]:
    """The overrides, with quotes around paths and around text that Hydra's grammar refuses.

    `~` at the start of a path is expanded. A comma still separates the values of a sweep, and
    brackets a list. `env=FILE.py:NAME`, `env=MODULE:NAME` and ids of Gymnasium (`env=CartPole-v1`)
    become `env=gym` with that id, unless the command is not `with_env`; `env.kwargs` and
    `policy.encoder_options` take any key.
    """
    if not with_env:
        overrides = [_place(override) for override in overrides]
    return [_readable(each) for override in overrides for each in _gymnasium(override)]


def _place(override: str) -> str:
    """`env=FILE.py:NAME` as the option `environment`: `env` is a group for Hydra."""
    key, _, value = override.partition("=")
    return f"environment={quote(value)}" if key == "env" else override


def _gymnasium(override: str) -> list[str]:
    """An override of a Gymnasium environment or of its own options, as Hydra takes it."""
    key, _, value = override.partition("=")
    if key == "env" and all(is_gymnasium_id(each) for each in value.split(",")):
        return ["env=gym", f"env.id={value}"]
    free = re.match(r"(env\.kwargs|policy\.encoder_options)[.=]", override)
    return [f"++{override}" if free else override]


def is_gymnasium_id(env: str) -> bool:
    """Whether the text is the id of a Gymnasium environment, or the place of a class."""
    return ":" in env or re.fullmatch(r"[\w./-]+-v\d+", env) is not None


def expand_paths(cfg: DictConfig) -> None:
    """Replace `~` by the home folder in all options that are paths, in place."""
    for key in PATHS:
        value = OmegaConf.select(cfg, key)
        if isinstance(value, str):
            OmegaConf.update(cfg, key, _expand(key, value))
        elif isinstance(value, ListConfig):
            OmegaConf.update(cfg, key, [_expand(key, str(each)) for each in value])


def _expand(key: str, path: str) -> str:
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise UsageError(f"{key}={path}: there is no such user (./{path} is a folder here)")
    return expanded


def _readable(override: str) -> str:
    key, equals, value = override.partition("=")
    if not equals or re.search(r"['\"]", value[:1]):
        return override
    if key.lstrip("+") in PATHS:
        if re.fullmatch(r"\w+\(.*\)", value) and _is_readable(override):
            return override  # a function of Hydra, such as glob(*)
        return f"{key}={_quote_each(value, key)}"
    # Text with brackets or quotes has a structure, in which quotes would change the meaning.
    if not re.search(r"[\[\]{}'\"]", value) and not _is_readable(override):
        quoted = f"{key}={_quote_each(value)}"
        return quoted if _is_readable(quoted) else override
    return override


def _is_readable(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def _quote_each(value: str, path: str | None = None) -> str:
    """Quote the values of a sweep, or the entries of a list; `path` is the key of a path."""
    if value.startswith("[") and value.endswith("]"):
        return f"[{_quote_each(value[1:-1], path)}]" if value[1:-1].strip() else value
    # Commas inside ${...} separate arguments.
    parts = [part.strip() for part in re.split(r",(?![^{]*})", value)]
    return ",".join(_quote(_expand(path, part) if path else part) for part in parts)


def _quote(text: str) -> str:
    return text if text == "null" or re.fullmatch(r"(['\"]).*\1", text) else quote(text)


def quote(text: str) -> str:
    """Text in quotes, as Hydra's grammar reads it."""
    # Backslashes before a quote escape it.
    escaped = re.sub(r"(\\*)(?='|$)", lambda found: found[1] * 2, text).replace("'", r"\'")
    return f"'{escaped}'"
