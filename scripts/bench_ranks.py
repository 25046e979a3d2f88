"""Steps per second of a training on several ranks, as a multiple of those of one process.

    python scripts/bench_ranks.py [--ranks 2] [--pairs 5] [--nice -5] [OPTION=VALUE ...]

trains in turns in one process of one thread, and on the ranks with one thread each, and prints both
medians, their ratio, and the machine's load before each training. OPTIONs are those of
`rlmem train`. Starts and the first iteration are not counted, nor the evaluation at the end.
"""

from __future__ import annotations

import argparse
import csv
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

OPTIONS = ["env=popgym-repeat", "core=ffm", "total_steps=163840", "eval_episodes=1", "threads=1"]
OPTIONS += ["checkpoint_every=null", "log.tensorboard=false", "log.progress=false", "device=cpu"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def train(ranks: int, run: Path, options: Sequence[str]) -> float:
    """Train on `ranks` ranks; returns the steps per second, without those of the first iteration.

    Raises CalledProcessError if a rank fails.
    """
    command = [sys.executable, "-m", "rlmem", "train", *OPTIONS, *options, f"run_dir={run}"]
    port, processes = str(free_port()), []
    for rank in range(ranks):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        if ranks > 1:
            environment |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_PORT": port}
            environment |= {"MASTER_ADDR": "127.0.0.1", "LOCAL_RANK": str(rank)}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        processes.append(subprocess.Popen(command, env=environment, **quiet))
    for process in processes:
        if code := process.wait():
            raise subprocess.CalledProcessError(code, command)
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    steps = int(rows[-1]["step"]) - int(rows[0]["step"])
    return steps / (float(rows[-1]["seconds"]) - float(rows[0]["seconds"]))


def main() -> None:
    """Measure in turns, and print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--nice", type=int, default=0, help="change of the priority")
    parser.add_argument("options", nargs="*")
    given = parser.parse_args()
    os.nice(given.nice)
    speeds: dict[int, list[float]] = {1: [], given.ranks: []}
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(given.pairs):
            for ranks, found in speeds.items():
                load = os.getloadavg()[0]
                found.append(train(ranks, Path(folder) / f"{pair}-{ranks}", given.options))
                print(
                    f"{ranks} ranks: {found[-1]:,.0f} steps/s (load before: {load:.1f})", flush=True
                )
    medians = {ranks: statistics.median(found) for ranks, found in speeds.items()}
    for ranks, median in medians.items():
        print(f"median of {ranks} ranks: {median:,.0f} steps/s")
    print(f"ratio: {medians[given.ranks] / medians[1]:.2f}")


if __name__ == "__main__":
    main()
