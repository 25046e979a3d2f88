"""The options of a replay: names, defaults and ranges."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from rlmem.errors import UsageError, at_least, fraction, positive, unknown

BATCHINGS = ("segments", "tape", "trajectory")

# Values with their sources: rlmem/configs/algo/r2d2.yaml.
DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "capacity": 100_000,
        "directory": None,
        "batching": "segments",
        "batch_size": 32,
        "length": 40,
        "burn_in": 20,
        "stride": 20,
        "stored_state": True,
        "alpha": 0.9,
        "beta": 0.6,
        "anneal_beta": False,
    }
)


def replay_options(**changes: Any) -> Mapping[str, Any]:
    """`DEFAULTS` with some changes."""
    return MappingProxyType({**DEFAULTS, **changes})


def check_options(options: Mapping[str, Any], num_envs: int) -> None:
    """Raises a `UsageError` for an option out of its range."""
    if options["batching"] not in BATCHINGS:
        raise unknown("batching", options["batching"], BATCHINGS)
    for name in ("capacity", "batch_size", "length", "stride"):
        positive(f"replay.{name}", options[name])
    at_least("replay.burn_in", options["burn_in"], 0)
    for name in ("alpha", "beta"):
        fraction(f"replay.{name}", options[name])
    slots, row = options["capacity"] // num_envs, options["burn_in"] + options["length"] + 1
    if slots < (least := max(2 * row, options["stride"])):
        raise UsageError(
            f"replay.capacity ({options['capacity']}) leaves {slots} steps for each of {num_envs} "
            f"environments; it must leave at least {least} (two rows of {row}, one stride)"
        )


def form_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first option of a replay's form that has changed, in words; None without one."""
    for name, value in now.items():
        if before[name] != value:
            if name in ("slots", "alpha", "directory"):  # values that are not those of options
                return f"algo.replay.{'capacity' if name == 'slots' else name} was another one"
            return f"algo.replay.{name} was {before[name]}"
    return None
