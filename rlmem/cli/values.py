"""Checks of a composed configuration against its defaults: keys, types, null, ranges."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlmem.cli.help import CONFIGS, options
from rlmem.cli.hydra_errors import GROUPS, leaves
from rlmem.cli.output import unknown_key
from rlmem.errors import UsageError
from rlmem.options import TYPE_NAMES, check_range

POSITIVE_INTEGERS = (
    "total_steps",
    "num_envs",
    "hidden_size",
    "layers",
    "eval_episodes",
    "eval_max_steps",
    "episodes",
    "trials",
    "trial_episodes",
    "checkpoint_keep",
    "batch",
    "legs",
)
# The types of options whose default is null, where the default does not tell it.
TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(POSITIVE_INTEGERS, (int,)),
    "threads": (int, str),  # auto
    "seed": (int,),
    **dict.fromkeys(("device", "split", "player", "to", "resume", "record", "out"), (str,)),
    **dict.fromkeys(("algo.dataset", "algo.replay.directory"), (str,)),
    **dict.fromkeys(("run", "baseline"), (str, list)),
    "policy.critic_only": (list,),
    "core.layers": (int, list),  # a list of cores for `stack`; other cores refuse it themselves
}


def check(cfg: DictConfig, defaults: Mapping[str, Any], nullable: Mapping[str, bool]) -> None:
    """Check every value of `cfg` and convert it to the type of its default, in place.

    A number is converted to the type of its default: 1 to 1.0, 1e6 to an integer, any number to
    text. `nullable` are the options of YAML files that are known, and whether they may be null.
    Raises `UsageError`.
    """
    for key, value in leaves(cfg):
        if key not in defaults:
            _check_place(key, value, cfg, defaults)
            continue
        converted = _converted(key, value, defaults[key], nullable.get(key, True))
        if key in TYPES or defaults[key] is not None:
            check_range(key, converted)
        if converted is not value:
            OmegaConf.update(cfg, key, converted)


def nullable(command: str, members: Mapping[str, str]) -> dict[str, bool]:
    """Options of a command and of members of groups: whether their comments allow null."""
    files = {"": CONFIGS / f"{command}.yaml"}
    files |= {f"{group}.": CONFIGS / group / f"{name}.yaml" for group, name in members.items()}
    return {
        prefix + option.key: option.default == "null" or _mentions_null(option.comment)
        for prefix, path in files.items()
        if path.exists()
        for option in options(path)
    }


def _mentions_null(comment: str) -> bool:
    """Whether a comment explains null, other than as the value of another option."""
    return re.search(r"(?<![=\w])null\b", comment) is not None


def _check_place(key: str, value: Any, cfg: DictConfig, defaults: Mapping[str, Any]) -> None:
    """Raise a `UsageError` for a key that no default has; some groups check their own."""
    parts = key.split(".")
    for count in range(1, len(parts)):
        above = ".".join(parts[:count])
        if above in defaults:  # a dict in place of a value
            default = defaults[above]
            if default is not None and not isinstance(default, dict):
                given = OmegaConf.to_container(OmegaConf.select(cfg, above))
                raise UsageError(f"{above} must be {TYPE_NAMES[type(default)]}, not {given!r}")
            if above in TYPES:
                raise UsageError(f"{above} must be {_names(TYPES[above])}, not a dict")
            return
    below = [name for name in defaults if name.startswith(f"{key}.")]
    if below and key not in GROUPS:
        raise UsageError(f"{key} has options, such as {below[0]}; it cannot be {value!r} itself")
    if key in ("tuned", "experiment") and not value:  # a member without options of its own
        return
    # The registry of cores, environments or algorithms names the nearest option.
    if parts[0] not in ("core", "env", "algo"):
        top = list(dict.fromkeys(name.partition(".")[0] for name in defaults))
        raise unknown_key(key, top, list(defaults))


def _converted(key: str, value: Any, default: Any, may_be_null: bool) -> Any:
    """`value` converted to the type of `default`; a `UsageError` if it cannot be or is too low."""
    wanted = TYPES.get(key, (type(default),))
    if isinstance(value, str) and value == "???":
        raise UsageError(f"{key} has no value")
    if isinstance(value, float) and int in wanted and value.is_integer():
        value = int(value)
    elif isinstance(value, int) and float in wanted and not isinstance(value, bool):
        value = float(value) if abs(value) < 1e300 else value
    elif isinstance(value, int | float) and str in wanted and type(value) not in wanted:
        value = str(value)
    if value is None and (default is None or may_be_null):
        return None
    known = [kind for kind in wanted if kind in TYPE_NAMES]
    if known and type(value) not in wanted:
        given = "null" if value is None else repr(value)
        raise UsageError(f"{key} must be {_names(known)}, not {given}")
    if key in POSITIVE_INTEGERS and value < 1:
        raise UsageError(f"{key} must be at least 1, not {value}")
    if isinstance(value, int) and int in wanted and value < 0 <= (default or 0):
        raise UsageError(f"{key} must not be negative, not {value}")
    return value


def _names(kinds: Any) -> str:
    return " or ".join(TYPE_NAMES[kind] for kind in kinds)
