"""Kills trainings at random moments, resumes them, and compares them with undisturbed ones.

    python scripts/kill_resume.py --moments 20

prints a table (docs/results/kill-resume.md). Every training is a process of its own, forked from
this one to save the imports. A run counts as equal if its weights, the state of its algorithm
(optimizer, target network, replay, environments), metrics and evaluations equal those of the
undisturbed run bit for bit, times aside.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlmem.cli.main import main
from rlmem.runs import checkpoint

TIMES = ("seconds", "steps_per_second")
COMMON = ["threads=1", "core=gru", "hidden_size=16", "num_envs=4", "eval_episodes=2"]
COMMON += ["log.tensorboard=false", "log.progress=false"]
ON_POLICY = ["algo.num_steps=16", "algo.num_minibatches=2", "total_steps=1024"]
ON_POLICY += ["checkpoint_every=128", "eval_every=448"]
OFF_POLICY = ["algo.num_steps=8", "algo.num_updates=1", "algo.learning_starts=200"]
OFF_POLICY += ["total_steps=1120", "checkpoint_every=160", "eval_every=480"]
OFF_POLICY += ["algo.replay.capacity=560", "algo.replay.length=12", "algo.replay.batch_size=4"]
SEGMENTS = ["algo.replay.burn_in=2", "algo.replay.stride=5", "algo.replay.alpha=0.9"]
SEGMENTS += ["algo.replay.stored_state=true"]
OFFLINE = ["algo.dataset=data", "algo.batch_size=4", "algo.length=16", "algo.num_updates=2"]
OFFLINE += ["total_steps=2560", "checkpoint_every=256", "eval_every=1024"]
CARTPOLE = ["env=popgym-noisy-position-only-cartpole", "policy.normalize_obs=true"]
CHAIN = ["env=memory-chain", "env.length=9"]
TRIALS = ["env=meta-dark-room", "env.episodes=3", "env.length=7"]
FILES = ["algo.replay.directory={run}/replay"]

CASES: dict[str, list[str]] = {
    "ppo": ["algo=ppo", *ON_POLICY, *CARTPOLE, "algo.normalize_reward=true"],
    "pqn": ["algo=pqn", *ON_POLICY, *CHAIN],
    "sac": ["algo=sac", *OFF_POLICY, *SEGMENTS, *CARTPOLE],
    "sac, replay in files": ["algo=sac", *OFF_POLICY, *SEGMENTS, *CARTPOLE, *FILES],
    "r2d2": ["algo=r2d2", *OFF_POLICY, *SEGMENTS, *CHAIN],
    "r2d2, replay in files": ["algo=r2d2", *OFF_POLICY, *SEGMENTS, *CHAIN, *FILES],
    "amago": ["algo=amago", *OFF_POLICY, *CHAIN],
    "amago, replay in files": ["algo=amago", *OFF_POLICY, *CHAIN, *FILES],
    "dt": ["algo=dt", *OFFLINE, *CHAIN],
    "ad": ["algo=ad", *OFFLINE, *CHAIN],
    "ppo on trials": ["algo=ppo", *ON_POLICY, *TRIALS],
}


def begin(log: Path, arguments: list[str]) -> int:
    """Start the program in a process; returns its id."""
    if (process := os.fork()) == 0:
        code = 70
        try:
            for number in (1, 2):
                os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
            code = main(arguments)
        finally:
            os._exit(code)
    return process


def finish(log: Path, arguments: list[str]) -> float:
    """Run the program to its end; returns its seconds, and raises RuntimeError if it fails."""
    start = time.monotonic()
    _, status = os.waitpid(begin(log, arguments), 0)
    if status:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{log.read_text()}")
    return time.monotonic() - start


def train(case: str, run: str) -> list[str]:
    """The command line of a case in the run folder `run`."""
    options = [option.format(run=run) for option in CASES[case]]
    return ["train", *COMMON, *options, f"run_dir={run}"]


def outcome(run: str) -> dict[str, Any]:
    """Everything of a finished run that must not depend on kills."""
    found: dict[str, Any] = {}
    for name in ("metrics.csv", "evaluations.csv"):
        with (Path(run) / name).open(newline="") as file:
            rows = [
                {k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)
            ]
        found[name] = rows
    found["eval.json"] = json.loads((Path(run) / "eval.json").read_text())
    last = checkpoint.load(run)
    # The name of the undo log is random, with the number of checkpoints.
    last.trainer["algo"].get("replay", {}).get("storage", {}).pop("undo", None)
    found |= {"step": last.step, "weights": last.weights, "algo": last.trainer["algo"]}
    found["random"] = last.trainer["rng"]
    found["files"] = {
        str(path.relative_to(run)): path.read_bytes() for path in Path(run).rglob("*.memmap")
    }
    return found


def difference(one: Any, other: Any, where: str = "") -> str | None:
    """The first place at which two trees of tensors and values differ; None if they are equal."""
    if type(one) is not type(other):
        return where
    if isinstance(one, Tensor):
        same = one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())
        return None if same else where
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return where
        parts = [(one[key], other[key], f"{where}.{key}") for key in one]
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            return where
        parts = [(a, b, f"{where}.{i}") for i, (a, b) in enumerate(zip(one, other, strict=True))]
    else:
        return None if one == other or one != one else where
    return next((found for part in parts if (found := difference(*part))), None)


def disturb(case: str, run: str, number: int, seconds: float, begun: bool) -> str:
    """Start a case, send it a signal after some time, and train it to its end.

    With `begun` the time counts from the first checkpoint on. Returns the part of the run in which
    the signal came.
    """
    log = Path(f"{run}.log")
    process = begin(log, train(case, run))
    while begun and not checkpoint.steps(run):
        time.sleep(0.005)
    time.sleep(seconds)
    os.kill(process, number)
    _, status = os.waitpid(process, 0)
    if status == 0:
        return "after the end"
    if (Path(run) / "config.yaml").exists() and checkpoint.steps(run):
        steps, total = checkpoint.steps(run)[-1], checkpoint_total(case)
        finish(log, ["train", f"resume={run}"])
        return "in the last evaluation" if steps >= total else "while training"
    shutil.rmtree(run, ignore_errors=True)
    finish(log, train(case, run))
    return "before a checkpoint"


def durations(case: str, run: str) -> tuple[float, float]:
    """The seconds of a case until its first checkpoint, and until its end."""
    start = time.monotonic()
    process = begin(Path(f"{run}.log"), train(case, run))
    while not checkpoint.steps(run):
        time.sleep(0.005)
    first = time.monotonic() - start
    _, status = os.waitpid(process, 0)
    assert status == 0
    return first, time.monotonic() - start


def checkpoint_total(case: str) -> int:
    """The steps of a case."""
    return next(int(each.split("=")[1]) for each in CASES[case] if each.startswith("total_steps"))


def measure(case: str, name: str, moments: int, luck: random.Random) -> str:
    """One row of the table."""
    folder = case.replace(", ", "-").replace(" ", "-")
    reference = f"{folder}-undisturbed"
    if not Path(reference).exists():
        finish(Path(f"{reference}.log"), train(case, reference))
        again = f"{folder}-again"
        finish(Path(f"{again}.log"), train(case, again))
        if found := difference(outcome(reference), outcome(again)):
            raise RuntimeError(f"two undisturbed runs of {case} differ in {found}")
    first, seconds = durations(case, f"{folder}-{name}-time")
    expected, places, equal, wrong = outcome(reference), Counter[str](), 0, []
    for moment in range(moments):
        run = f"{folder}-{name}-{moment}"
        begun = moment % 5 > 0  # the first checkpoint comes late in so short a run
        wait = luck.uniform(0, seconds - first if begun else seconds)
        places[disturb(case, run, signal.Signals[name], wait, begun)] += 1
        found = difference(expected, outcome(run))
        equal += found is None
        wrong += [] if found is None else [f"{run}: {found}"]
        shutil.rmtree(run)
    for line in wrong:
        print(line, file=sys.stderr)
    kinds = ("before a checkpoint", "while training", "in the last evaluation", "after the end")
    cells = [case, name, f"{seconds:.1f}", *(str(places[kind]) for kind in kinds)]
    return "| " + " | ".join([*cells, f"{equal} of {moments}"]) + " |"


def run() -> None:
    """Measure all cases, in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--signals", default="SIGKILL,SIGTERM")
    parser.add_argument("--cases", default=";".join(CASES), help="separated by semicolons")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    luck = random.Random(options.seed)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        record = ["algo=ppo", *ON_POLICY, *CHAIN, "record=data", "run_dir=source"]
        finish(Path("source.log"), ["train", *COMMON, *record])
        print("| run | signal | seconds | before a checkpoint | while training |"
              " in the last evaluation | after the end | equal |")  # fmt: skip
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for name in options.signals.split(","):
            for case in options.cases.split(";"):
                print(measure(case, name, options.moments, luck), flush=True)
        os.chdir("/")


if __name__ == "__main__":
    run()
