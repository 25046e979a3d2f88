"""`diagnose`: the use of its memory by a trained agent, in five analyses.

- `saliency`: gradients of decisions by past observations;
- `retention`: return with the memory of the last k steps alone;
- `use`: return with and without memory, beside references;
- `interference`: return after strange steps;
- `probes`: facts of the hidden state in the memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rlmem.diagnose.trained import probes, report, returns, saliency
from rlmem.diagnose.trained.subject import Budget, LeftOut, Subject, from_agent, from_run
from rlmem.envs.seeding import kept_random_state
from rlmem.errors import positive, unknown
from rlmem.files import atomic_write
from rlmem.runs.agent import Agent

ANALYSES: dict[str, tuple[Callable[..., dict[str, Any]], Callable[..., report.Section]]] = {
    "saliency": (saliency.analyse, report.saliency),
    "retention": (returns.retention, report.retention),
    "use": (returns.use, report.use),
    "interference": (returns.interference, report.interference),
    "probes": (probes.analyse, report.probes),
}


def chosen(given: Sequence[str]) -> list[str]:
    """The names of analyses, in their order; all for none. `UsageError` for an unknown one."""
    for name in given:
        if name not in ANALYSES:
            raise unknown("analysis", name, ANALYSES)
    return [name for name in ANALYSES if not given or name in given]


def diagnose(
    agent: Agent | str | Path,
    env: Any = None,
    *,
    analyses: Sequence[str] = (),
    dir: str | Path | None = None,
    twin: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    budget: Budget | None = None,
) -> dict[str, Any]:
    """Diagnose a trained agent: a run folder, or an `Agent` in an environment `env`.

    `env` with its `options` is given as for `rlmem.evaluate`. `analyses` are names in `ANALYSES`
    (all by default), `twin` is the run of a fully observed agent, which `use` plays beside it. With
    `dir`, `diagnose.json`, `diagnose.md` and pictures are written there. The result has the
    settings, `analyses` by name, and `left_out` with reasons.
    """
    subject = from_agent(agent, env, options) if isinstance(agent, Agent) else from_run(agent)
    other = None if twin is None else from_run(twin)
    result, _ = run(subject, budget or Budget(), chosen(analyses), dir, other)
    return result


def run(
    subject: Subject,
    budget: Budget,
    names: Sequence[str],
    folder: str | Path | None = None,
    twin: Subject | None = None,
    show: Callable[[str], None] | None = None,
) -> tuple[dict[str, Any], list[report.Section]]:
    """The results of some analyses, and their sections if there is a `folder` for the pictures.

    `show` is called with the name of each before it begins. The global random generators are as
    before afterwards.
    """
    positive("episodes", budget.episodes)
    positive("steps", budget.steps)
    positive("decisions", budget.decisions)
    found: dict[str, Any] = {}
    left: dict[str, str] = {}
    with kept_random_state():
        for name in names:
            if show is not None:
                show(name)
            analyse = ANALYSES[name][0]
            if name == "use":
                analyse = partial(analyse, twin=twin)
            try:
                found[name] = analyse(subject, budget)
            except LeftOut as reason:
                left[name] = str(reason)
    settings = dict(subject.settings) | {
        "episodes": budget.episodes,
        "seeds": list(budget.bases(subject)),
        "deterministic": budget.deterministic,
    }
    result = settings | {"analyses": found, "left_out": left}
    if folder is None:
        return result, []
    return result, write(result, Path(folder))


def write(result: Mapping[str, Any], folder: Path) -> list[report.Section]:
    """Write `diagnose.json`, `diagnose.md` and the pictures into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = [ANALYSES[name][1](each, folder) for name, each in result["analyses"].items()]
    atomic_write(folder / "diagnose.json", json.dumps(_plain(result), indent=1) + "\n")
    page = [section.markdown() for section in sections]
    page += [f"{name} left out: {reason}" for name, reason in result["left_out"].items()]
    atomic_write(folder / "diagnose.md", "\n\n".join(page) + "\n")
    return sections


def _plain(value: Any) -> Any:
    """Named tuples as dicts, for JSON."""
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
