"""Save the best agent of each of POPGym's tasks as one file, agents/TASK-LEVEL.rlmem.

    python scripts/popgym_agents.py DIR...

DIR are folders of `rlmem bench popgym`. The best result of a task in docs/results/popgym is the one
with the greatest greedy return. If its run is in DIR, its agent is saved, read again and plays the
recorded episodes: `rlmem eval run=FILE episodes=N` prints the recorded greedy return. Agents of
earlier calls are kept while theirs is the best. docs/popgym.md shows the list.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pages import RESULTS, write

from rlmem.runs import build, evaluate, sealed
from rlmem.runs.agent import load
from rlmem.runs.playing import MAX_STEPS, Watch
from rlmem.runs.scores import REFERENCES

AGENTS = RESULTS.parents[1] / "agents"
LARGEST = 1_000_000  # bytes


def best() -> Iterator[dict[str, Any]]:
    """The result with the greatest greedy return of each task and level."""
    results = [json.loads(path.read_text()) for path in sorted((RESULTS / "popgym").glob("*.json"))]
    for env, levels in REFERENCES.items():
        for level in levels:
            found = [each for each in results if (each["env"], each["difficulty"]) == (env, level)]
            if found:
                yield max(found, key=lambda each: each["greedy_return"])


def file_of(result: dict[str, Any]) -> Path:
    """The agent's file of a task."""
    return AGENTS / f"{result['env'].removeprefix('popgym-')}-{result['difficulty']}.rlmem"


def is_its_agent(path: Path, result: dict[str, Any]) -> bool:
    """Whether a file, if there is one, is the agent of a result."""
    if not path.exists():
        return False
    spec = load(path).spec
    found = spec.core, spec.algo, (spec.training or {}).get("seed")
    return found == (result["core"], result["algo"], result["seed"])


def is_its_run(run: Path, result: dict[str, Any]) -> bool:
    """Whether a folder holds the run of a result."""
    path = run / "eval.json"
    return path.exists() and sealed.read(path)["return_mean"] == result["greedy_return"]


def save(run: Path, result: dict[str, Any]) -> None:
    """Save the agent of a run; raises `ValueError` if the file does not play as recorded."""
    agent = load(run)
    # Runs of older versions do not have it in their agent.json.
    training = build.training_of(build.load_config(run)) | {"step": result["steps"]}
    agent.spec = replace(agent.spec, training=training)
    path = file_of(result)
    agent.save(path)
    if (found := played(path, result)) != result["greedy_return"]:
        path.unlink()
        raise ValueError(f"{run}: {found} is not the recorded {result['greedy_return']}")
    if path.stat().st_size > LARGEST:
        path.unlink()
        print(f"{run}: too large for a file")


def played(path: Path, result: dict[str, Any]) -> float:
    """The greedy return of an agent's file in the episodes of a result."""
    trained = evaluate.load_file(path)
    torch.manual_seed(result["seed"])
    settings = {"step": trained.step, "seed": result["seed"], "deterministic": True}
    watch = Watch(trained.cfg.get("eval_max_steps", MAX_STEPS))
    return evaluate.measure(trained, settings, result["episodes"], watch)["return_mean"]


def rows() -> Iterator[dict[str, str]]:
    """The list of all files."""
    for result in best():
        path = file_of(result)
        if is_its_agent(path, result):
            episodes = f" episodes={result['episodes']}" * (result["episodes"] != 100)
            yield {
                "agent": path.name,
                "core": result["core"],
                "algorithm": result["algo"],
                "greedy return": f"{result['greedy_return']:.6f}",
                "kB": f"{path.stat().st_size / 1000:.0f}",
                "command": f"`rlmem eval run=agents/{path.name}{episodes}`",
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, help="folders of rlmem bench popgym")
    folders = parser.parse_args().folders
    torch.set_num_threads(1)
    AGENTS.mkdir(exist_ok=True)
    for result in best():
        runs = [run for folder in folders if is_its_run(run := folder / result["cell"], result)]
        if runs and not is_its_agent(file_of(result), result):
            save(runs[0], result)
    size = sum(path.stat().st_size for path in AGENTS.glob("*.rlmem"))
    found = list(rows())
    write(f"{len(found)} of 42 agents, {size / 1e6:.1f} MB", found, "popgym-agents")


if __name__ == "__main__":
    main()
