"""Trained steps per second with one and two threads, on an idle machine and beside a busy core.

    python scripts/bench_threads.py [--rounds 3] [--page] [KEY=VALUE ...]

Every round runs all cases once, so a change of the machine meets all of them; medians are printed.
A case is a number of threads and how they wait for work: `libgomp` is its default, which uses the
core for milliseconds, `rlmem` the shorter time that the program sets, `passive` none at all.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from pages import RESULTS

CASES = [(1, "rlmem"), (2, "libgomp"), (2, "rlmem"), (2, "passive")]
TRAIN = ["env=popgym-repeat", "core=ffm", "total_steps=60000", "eval_episodes=2"]
# Of a case that collapses, until it is stopped.
SECONDS = 60


def speed(threads: int, policy: str, options: list[str]) -> float:
    """Steps per second of a training; 0 if it takes more than `SECONDS`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "rlmem", "train", *TRAIN, f"threads={threads}", *options]
        command += [f"run_dir={folder}/a", "log.progress=false", "log.tensorboard=false"]
        ours = ("OMP_", "GOMP_")
        environment = {key: text for key, text in os.environ.items() if not key.startswith(ours)}
        # An empty value is a choice of the user: libgomp ignores it, and rlmem keeps it.
        wait = {"libgomp": {"OMP_WAIT_POLICY": ""}, "passive": {"OMP_WAIT_POLICY": "passive"}}
        environment |= wait.get(policy, {})
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            lines = Path(folder, "a", "metrics.csv").read_text().splitlines()
            return float(lines[-1].split(",")[2]) if len(lines) > 1 else 0.0
    found = re.search(r"([\d,]+) steps/s", done.stdout)
    if found is None:
        raise SystemExit(done.stdout + done.stderr)
    return float(found[1].replace(",", ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--page", action="store_true", help="write docs/results/bench-threads.md")
    parser.add_argument("options", nargs="*")
    args = parser.parse_args()
    lines = [
        "| other programs | threads | waiting | steps/s | of one thread |",
        "|---|---|---|---|---|",
    ]
    for busy in (0, 1):
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        found: dict[tuple[int, str], list[float]] = defaultdict(list)
        try:
            for _ in range(args.rounds):
                for case in CASES:
                    found[case].append(speed(*case, args.options))
        finally:
            for other in others:
                other.kill()
        one = statistics.median(found[CASES[0]])
        for (threads, policy), speeds in found.items():
            median = statistics.median(speeds)
            where = "one busy core" if busy else "none"
            lines.append(f"| {where} | {threads} | {policy} | {median:,.0f} | {median / one:.2f} |")
            print(lines[-1], [round(each) for each in speeds], flush=True)
    text = "\n".join(lines)
    print(text)
    if args.page:
        (RESULTS / "bench-threads.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
