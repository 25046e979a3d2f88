"""Errors of Hydra and OmegaConf as one-line `UsageError`s with the nearest known names."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlmem.cli.output import unknown_key
from rlmem.errors import UsageError, unknown

# The groups of `train.yaml`: core=NAME chooses a file, core.OPTION=VALUE changes a value in it.
GROUPS = ("core", "env", "algo", "policy", "log")


def to_usage_error(error: Exception, command: str, overrides: Sequence[str]) -> UsageError:
    """The `UsageError` for an exception that Hydra raised while it read `overrides`."""
    text = str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return unknown(group or "configuration", name, error.options)
    if isinstance(error, OverrideParseException):
        if "=" not in error.override:
            return UsageError(f"cannot read {error.override!r}: write options as key=value")
        return UsageError(
            f"cannot read {error.override!r}: {text.splitlines()[0]} (text with brackets or commas "
            "needs quotes inside those of the shell: \"key='text'\")"
        )
    if match := re.match(r"Could not override '(.+?)'", text):
        return _unknown_key(match[1], command, overrides)
    if match := re.match(r"Multiple values for ([\w/]+)", text):
        return UsageError(f"{match[1]} already has a value: write {match[1]}=NAME once, without +")
    if match := re.match(r"Ambiguous value for argument '(.+)'", text):
        return UsageError(
            f"{match[1]} has a comma: add -m for one run per value, or write a list as key=[a,b]"
        )
    return UsageError(text.splitlines()[0] if text else type(error).__name__)


def leaves(cfg: DictConfig) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a configuration; interpolations are not resolved."""
    return _leaves(OmegaConf.to_container(cfg), "")


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def compose(command: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration of a command: its defaults changed by `overrides`."""
    if GlobalHydra.instance().is_initialized():
        return hydra.compose(command, list(overrides))
    with hydra.initialize_config_module("rlmem.configs", version_base="1.3"):
        return hydra.compose(command, list(overrides))


def sweep_config(command: str, overrides: Sequence[str]) -> DictConfig | None:
    """Hydra's own settings for a sweep of `overrides`; None if they cannot be read."""
    parser = OverridesParser.create()
    try:
        fixed = [o for o in overrides if not parser.parse_override(o).is_sweep_override()]
        with (
            warnings.catch_warnings(),
            hydra.initialize_config_module("rlmem.configs", version_base="1.3"),
        ):
            warnings.simplefilter("ignore")  # Hydra gives them again when the command runs
            return hydra.compose(command, fixed, return_hydra_config=True).hydra
    except (HydraException, OmegaConfBaseException):
        return None


def _unknown_key(key: str, command: str, overrides: Sequence[str]) -> UsageError:
    # Compose with only those overrides that determine the keys; of a sweep, the first value.
    deciding = [o for o in overrides if o.startswith("hydra.searchpath=")]
    deciding += [o.split(",")[0] for o in overrides if o.partition("=")[0] in GROUPS]
    try:
        cfg = compose(command, deciding)
    except (HydraException, OmegaConfBaseException):
        return UsageError(f"unknown key {key!r}")
    return unknown_key(key, [str(name) for name in cfg], [name for name, _ in leaves(cfg)])
