"""Learning results of the README, measured with the command line program.

    python scripts/reproduce.py [--env popgym-repeat ...] [--cores ffm gru none ...] [--seeds 0 1 2]
                                [--page NAME] [--jobs 1] [key=value ...]

Runs `rlmem train` for every environment, core and seed. Prints a table of greedy returns on unseen
seeds and of wall and CPU times (including start-up); `--page` also writes it to
docs/results/NAME.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from pages import publish


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env", nargs="+", default=["popgym-repeat"])
    parser.add_argument("--cores", nargs="+", default=["ffm", "gru", "none"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    parser.add_argument("--jobs", type=int, default=1, help="parallel runs (increases wall times)")
    args, overrides = parser.parse_known_args()

    def train_and_print(choice: tuple[str, str, int]) -> dict[str, str]:
        row = train(*choice, overrides)
        print(*row.values(), sep=" | ", flush=True)
        return row

    with ThreadPoolExecutor(args.jobs) as pool:
        rows = list(pool.map(train_and_print, product(args.env, args.cores, args.seeds)))
    command = " ".join(["rlmem train env=ENV core=CORE seed=SEED", *overrides])
    publish(f"`{command}`, {args.jobs} at once", rows, args.page)


def train(env: str, core: str, seed: int, overrides: list[str]) -> dict[str, str]:
    """Run `rlmem train` once; returns a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        options = [f"env={env}", f"core={core}", f"seed={seed}", f"run_dir={run_dir}", *overrides]
        begun = time.perf_counter()
        command = [sys.executable, "-m", "rlmem", "train", *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        if status:
            raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
        result = json.loads((run_dir / "eval.json").read_text())
    memory = result.get("memory_score")
    return {
        "env": env,
        "core": core,
        "seed": str(seed),
        "greedy return": f"{result['return_mean']:.3f}",
        "worst of 100": f"{result['return_min']:.3f}",
        "memory score": "" if memory is None else f"{memory:.2f}",
        "steps": f"{result['step']:,}",
        "wall time": f"{wall:.0f} s",
        "CPU time": f"{used.ru_utime + used.ru_stime:.0f} s",
        "steps/s": f"{result['step'] / wall:,.0f}",
    }


if __name__ == "__main__":
    main()
