"""`tasks.json` of a run: the task splits it was trained with, to keep held-out tasks held out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlmem.envs.base import VecEnv
from rlmem.envs.meta.splits import Splits, splits_of
from rlmem.errors import UsageError
from rlmem.files import atomic_write
from rlmem.runs import run_files, sealed

FILE = "tasks.json"


def write(run_dir: Path, env: VecEnv) -> None:
    """Write the definition of the splits to a run folder, if the environment draws tasks.

    Raises `UsageError` if the folder has another definition: a resumed run keeps its tasks.
    """
    splits = splits_of(env)
    if splits is None:
        return
    path = run_dir / FILE
    if path.exists():
        check(run_dir, env)
        return
    content = {"fingerprint": splits.fingerprint(), "splits": splits.data()}
    atomic_write(path, sealed.seal(content))


def check(run_dir: Path, env: VecEnv) -> Splits:
    """The splits of `env`; a `UsageError` if the run was trained with other ones."""
    splits = splits_of(env)
    path = run_dir / FILE
    if splits is None:
        raise UsageError(f"the environment of {run_dir} has no task splits")
    try:
        text = run_files.sealed_text(run_dir, FILE, _definition)
    except UsageError as error:
        raise UsageError(f"{error}: cannot tell which tasks the run was trained on") from error
    if text is None:
        raise UsageError(f"{path} is missing: cannot tell which tasks the run was trained on")
    fingerprint, definition = _definition(text)
    if fingerprint != splits.fingerprint():
        raise UsageError(
            f"{run_dir} was trained with another definition of the splits "
            f"({difference(definition, splits.data())}): held-out tasks may have been trained on"
        )
    return splits


def _definition(text: str) -> tuple[str, Mapping[str, Any]]:
    """The fingerprint and the definition of the splits in a file."""
    content = sealed.unseal(text)
    if not all(isinstance(each, Mapping | None) for each in dict(content["splits"]).values()):
        raise ValueError("a split is no object")
    return str(content["fingerprint"]), content["splits"]


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first difference between two definitions of splits, as text."""
    # JSON turns tuples into lists, as in the file.
    one, other = (json.loads(json.dumps(each)) for each in (one, other))
    for split in [*one, *other]:
        a, b = one.get(split) or {}, other.get(split) or {}
        for name in [*a, *b]:
            if a.get(name) != b.get(name):
                return f"{name} of {split}: {a.get(name)} and {b.get(name)}"
    return "the same entries in another order"
