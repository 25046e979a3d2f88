"""`rlmem diagnose run=...`: analyses of a trained agent, printed and written into its folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rlmem.cli import plain
from rlmem.errors import UsageError, need, positive, unknown
from rlmem.files import expanded
from rlmem.runs import grid
from rlmem.runs.folder import require_usable

# Options for questions to cores, which need no agent; the others but `seeds` and `dir` need one.
OF_CORES = ("core", "questions", "width", "effort", "jobs", "list")
SHARED = ("seeds", "dir")


def run_trained(options: Mapping[str, Any], others: Sequence[str]) -> int:
    """Diagnose the agent `run`; `others` are options of its environment, `env.KEY=VALUE`."""
    defaults = plain.defaults("diagnose")
    if given := [key for key in OF_CORES if options[key] != defaults[key]]:
        raise UsageError(f"{given[0]} is an option of rlmem diagnose core=..., not of run=...")
    need("hydra", "rlmem diagnose run=...", "train", "hydra-core")
    need("matplotlib", "a plot", "train")
    from rlmem.diagnose import trained

    names = trained.chosen(plain.as_list(options["analyses"]))
    budget = _budget(options)
    path = expanded(options["run"])
    folder = path / "diagnose" if path.is_dir() else path.with_name(f"{path.stem}-diagnose")
    folder = require_usable("dir", expanded(options["dir"]) if options["dir"] else folder)
    subject = _subject(path, options, others)
    twin = None
    if options["twin"] is not None:
        place = expanded(options["twin"])
        twin = trained.from_run(place, "last", options["device"], options["trust"])
    result, sections = trained.run(subject, budget, names, folder, twin, _progress())
    for section in sections:
        print(section.text(), end="\n\n")
    for name, reason in result["left_out"].items():
        print(f"{name} left out: {reason}")
    print(f"written to {folder}/diagnose.md, diagnose.json and pictures beside them")
    return 0


def require_none(options: Mapping[str, Any], others: Sequence[str]) -> None:
    """Raise a `UsageError` for an option that needs `run=`."""
    defaults = plain.defaults("diagnose")
    known = (*OF_CORES, *SHARED)
    if others:
        raise unknown("option of rlmem diagnose", others[0].partition("=")[0], defaults)
    if given := [key for key in defaults if key not in known and options[key] != defaults[key]]:
        raise UsageError(f"{given[0]} needs run=..., a trained agent")


def _budget(options: Mapping[str, Any]) -> Any:
    from rlmem.diagnose.trained import Budget

    seeds, cut = options["seeds"], options["eval_max_steps"]
    if cut is not None and not str(cut).isdigit():
        raise UsageError(f"eval_max_steps must be an integer, not {cut!r}")
    return Budget(
        episodes=positive("episodes", options["episodes"]),
        seeds=None if seeds is None else tuple(map(int, grid.seeds(seeds).split(","))),
        steps=positive("steps", options["steps"]),
        decisions=positive("decisions", options["decisions"]),
        max_steps=None if cut is None else positive("eval_max_steps", int(cut)),
        deterministic=options["deterministic"],
    )


def _subject(path: Path, options: Mapping[str, Any], others: Sequence[str]) -> Any:
    """The agent of a run folder, or of a file, also in another environment `env`."""
    from rlmem.diagnose import trained
    from rlmem.runs.agent import load

    env, own = options["env"], _env_options(others)
    checkpoint, trust = options["checkpoint"], options["trust"]
    if path.is_dir() or env is None:
        if own:
            raise UsageError(f"env.{min(own)}: {path} has its own environment")
        return trained.from_run(path, checkpoint, options["device"], trust, env)
    agent = load(path, options["device"] or "cpu", checkpoint, trust)
    return trained.from_agent(agent, env, own)


def _env_options(others: Sequence[str]) -> dict[str, Any]:
    """The options `env.KEY=VALUE`; a `UsageError` for another key."""
    found = {}
    for each in others:
        key, _, value = each.partition("=")
        if not key.startswith("env."):
            raise unknown("option of rlmem diagnose", key, plain.defaults("diagnose"))
        try:
            found[key.removeprefix("env.")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"cannot read {each!r}") from error
    return found


def _progress() -> Any:
    begun = time.monotonic()

    def show(name: str) -> None:
        print(f"[{time.monotonic() - begun:5.0f} s] {name}", file=sys.stderr, flush=True)

    return show
