"""What the library says of learning, measured by the command that a user would type.

    python scripts/reproduce.py [--env popgym-repeat ...] [--cores ffm gru none ...] [--seeds 0 1 2]
                                [--page NAME] [--jobs 1] [key=value ...]

Runs `rlmem train` for every environment, core and seed, prints a table of greedy returns on unseen
seeds and wall times (start-up included), and writes it to docs/results/NAME.md if a page is named.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import torch

from rlmem import __version__

RESULTS = Path(__file__).parent.parent / "docs" / "results"
HEAD = ("env", "core", "seed", "greedy", "worst", "memory score", "steps", "wall", "steps/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env", nargs="+", default=["popgym-repeat"])
    parser.add_argument("--cores", nargs="+", default=["ffm", "gru", "none"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once (wall times suffer)")
    args, overrides = parser.parse_known_args()

    def one(choice: tuple[str, str, int]) -> tuple[str, ...]:
        row = train(*choice, overrides)
        print(*row, sep=" | ", flush=True)
        return row

    with ThreadPoolExecutor(args.jobs) as pool:
        rows = list(pool.map(one, product(args.env, args.cores, args.seeds)))
    text = table(overrides, rows, args.jobs)
    print(text)
    if args.page:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{args.page}.md").write_text(text)


def train(env: str, core: str, seed: int, overrides: list[str]) -> tuple[str, ...]:
    """One run of the command line; the cells of its row."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        options = [f"env={env}", f"core={core}", f"seed={seed}", f"run_dir={run_dir}", *overrides]
        begun = time.perf_counter()
        command = [sys.executable, "-m", "rlmem", "train", *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - begun
        result = json.loads((run_dir / "eval.json").read_text())
    memory = result.get("memory_score")
    return (
        env,
        core,
        str(seed),
        f"{result['return_mean']:.3f}",
        f"{result['return_min']:.3f}",
        "" if memory is None else f"{memory:.2f}",
        f"{result['step']:,}",
        f"{wall:.0f} s",
        f"{result['step'] / wall:,.0f}",
    )


def table(overrides: list[str], rows: list[tuple[str, ...]], jobs: int) -> str:
    """A page in Markdown."""
    command = " ".join(["rlmem train env=ENV core=CORE seed=SEED", *overrides])
    about = f"rlmem {__version__}, torch {torch.__version__}, {platform.machine()}"
    about += f" with {os.cpu_count()} cores, {jobs} run{'s' * (jobs > 1)} at once"
    lines = [HEAD, ("---",) * len(HEAD), *rows]
    return "\n".join(
        [f"`{command}`; {about}", "", *("| " + " | ".join(x) + " |" for x in lines), ""]
    )


if __name__ == "__main__":
    main()
