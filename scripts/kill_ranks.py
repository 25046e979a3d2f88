"""Kills one of two ranks at random moments; torchrun restarts both, and the run must not notice.

    python scripts/kill_ranks.py --moments 10

prints a table. Every training is `torchrun --nproc-per-node=2 --max-restarts=3 -m rlmem train`. A
run counts as equal if weights, the state of its algorithm, random numbers, metrics and evaluations
equal those of undisturbed ranks bit for bit, times aside (see `kill_resume.py`).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kill_resume import CASES, COMMON, checkpoint_total, difference, outcome

from rlmem.runs import checkpoint, checkpoint_folders

RANKS = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=3"]
PLACES = ("before a checkpoint", "while training", "at the end")
NAMES = ("ppo", "pqn", "sac", "r2d2", "ppo on trials")


def begin(case: str, run: str) -> subprocess.Popen[bytes]:
    """Start two ranks under torchrun."""
    command = [sys.executable, *RANKS, "-m", "rlmem", "train", *COMMON, *CASES[case]]
    with Path(f"{run}.log").open("wb") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [*command, f"run_dir={run}"], stdout=log, stderr=log, env=environment
        )


def finish(process: subprocess.Popen[bytes], run: str) -> None:
    """Wait for the end; raises RuntimeError if torchrun gives up."""
    if process.wait():
        raise RuntimeError(f"{run} failed:\n{Path(f'{run}.log').read_text()}")


def workers(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes of the ranks."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = []
    for child in map(int, children):
        arguments = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        found += [child] if b"rlmem" in arguments else []
    return found


def disturb(case: str, run: str, seconds: float, begun: bool, luck: random.Random) -> str:
    """Kill a random rank after some seconds; returns the part of the run.

    With `begun` the time counts from the first checkpoint on, else from the two processes on.
    """
    process = begin(case, run)
    while not (checkpoint.steps(run) if begun else len(workers(process)) == 2):
        time.sleep(0.01)
    time.sleep(seconds)
    victims = workers(process)
    if len(victims) == 2:
        os.kill(luck.choice(victims), signal.SIGKILL)
    finish(process, run)
    log = Path(f"{run}.log").read_text()
    if "exactly where it was" in log:
        return "while training"
    return "at the end" if begun else "before a checkpoint"


def duration(case: str, run: str) -> float:
    """Train undisturbed ranks; returns the seconds from the first checkpoint to the last one."""
    process = begin(case, run)
    while not checkpoint.steps(run):
        time.sleep(0.01)
    start = time.monotonic()
    last = checkpoint_folders.folder_name(checkpoint_total(case))
    while not Path(run, "checkpoints", last).exists():
        time.sleep(0.01)
    seconds = time.monotonic() - start
    finish(process, run)
    return seconds


def measure(case: str, moments: int, luck: random.Random) -> str:
    """One row of the table."""
    folder = case.replace(" ", "-")
    seconds = duration(case, f"{folder}-undisturbed")
    expected = outcome(f"{folder}-undisturbed")
    places, equal = [], 0
    for moment in range(moments):
        run = f"{folder}-{moment}"
        begun = moment % 5 > 0
        places.append(disturb(case, run, luck.uniform(0, seconds if begun else 5), begun, luck))
        found = difference(expected, outcome(run))
        equal += found is None
        if found is not None:
            print(f"{run}: {found}", file=sys.stderr)
        shutil.rmtree(run)
    counts = [str(places.count(place)) for place in PLACES]
    return f"| {case} | {' | '.join(counts)} | {equal} of {moments} |"


def main() -> None:
    """Measure all cases, in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--cases", default=";".join(NAMES), help="separated by semicolons")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        luck = random.Random(0)
        print(f"| training | killed {' | '.join(PLACES)} | equal to undisturbed |")
        print("|---|---|---|---|---|", flush=True)
        for case in options.cases.split(";"):
            print(measure(case, options.moments, luck), flush=True)
        os.chdir("/")


if __name__ == "__main__":
    main()
