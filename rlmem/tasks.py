"""Which tasks a run was trained on, written beside it: what is held out must stay so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlmem.envs.base import VecEnv
from rlmem.envs.meta.splits import Splits, splits_of
from rlmem.errors import UsageError

FILE = "tasks.json"


def write(run_dir: Path, env: VecEnv) -> None:
    """Leave the definition of the splits in a run folder, if the environment draws tasks.

    A folder that has one already must have the same (`UsageError`): a run goes on with its tasks.
    """
    splits = splits_of(env)
    if splits is None:
        return
    path = run_dir / FILE
    if path.exists():
        check(run_dir, env)
        return
    said = {"fingerprint": splits.fingerprint(), "splits": splits.data()}
    partial = run_dir / f"{FILE}.partial"
    partial.write_text(json.dumps(said, indent=1) + "\n")
    partial.replace(path)


def check(run_dir: Path, env: VecEnv) -> Splits:
    """The splits of `env`, if the run was trained with the same; else a `UsageError`."""
    splits = splits_of(env)
    path = run_dir / FILE
    if splits is None:
        raise UsageError(f"the environment of {run_dir} draws no tasks: it has no splits")
    if not path.exists():
        raise UsageError(f"{path} is missing: it says what tasks the run was trained on")
    try:
        then = json.loads(path.read_text())
        fingerprint, definition = then["fingerprint"], then["splits"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged: it says not what the run was trained on") from error
    if fingerprint != splits.fingerprint():
        raise UsageError(
            f"{run_dir} was trained with another definition of the splits "
            f"({difference(definition, splits.data())}): what is held out now may have been "
            "trained on"
        )
    return splits


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first thing that two definitions of splits say differently."""
    # Through JSON, which knows no tuples.
    one, other = (json.loads(json.dumps(each)) for each in (one, other))
    for split in [*one, *other]:
        a, b = one.get(split) or {}, other.get(split) or {}
        for name in [*a, *b]:
            if a.get(name) != b.get(name):
                return f"{name} of {split}: {a.get(name)} and {b.get(name)}"
    return "the same words, another order"
