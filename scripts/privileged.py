"""What a critic with the hidden state buys: the passive T-maze, where the goal is shown once.

    python scripts/privileged.py [--length 50] [--seeds 0 1 2] [--page privileged] [key=value ...]

Runs `rlmem train env=tmaze-passive` with a critic of the observations, and with one that also reads
goal and position. Prints the greedy returns on unseen seeds, and the steps until the mean
return of training first reaches 0.9: 1 means both goals are reached, 0.5 is the optimum without
memory.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from pathlib import Path

from pages import publish
from program import rlmem

SETTINGS = ["tuned=none", "core=gru", "total_steps=500000", "hidden_size=64"]
CRITICS = {
    "observations": ["env.privileged=false"],
    "observations and hidden state": ["env.privileged=true"],
}
REACHED = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--length", type=int, default=50, help="cells of the corridor")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    args, overrides = parser.parse_known_args()
    settings = [*SETTINGS, f"env.corridor_length={args.length}", *overrides]
    table = []
    for critic, options in CRITICS.items():
        for seed in args.seeds:
            row = train([*settings, *options, f"seed={seed}"])
            table.append({"critic reads": critic, "seed": str(seed), **row})
            print(*table[-1].values(), sep=" | ", flush=True)
    command = " ".join(["rlmem train env=tmaze-passive env.privileged=CRITIC seed=SEED", *settings])
    publish(f"`{command}`", table, args.page)


def train(options: list[str]) -> dict[str, str]:
    """One run: its greedy return, and the steps until its training return reaches `REACHED`."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        rlmem("train", "env=tmaze-passive", f"run_dir={run}", "log.progress=false", *options)
        result = json.loads((run / "eval.json").read_text())
        with (run / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    reached = [row["step"] for row in rows if float(row["episode_return"] or -1) >= REACHED]
    half = rows[len(rows) // 2]
    return {
        "return after half of the steps": f"{float(half['episode_return']):.2f}",
        f"steps to {REACHED}": f"{int(reached[0]):,}" if reached else "never",
        "greedy return": f"{result['return_mean']:.2f}",
        "explained variance": f"{float(rows[-1]['explained_variance']):.2f}",
    }


if __name__ == "__main__":
    main()
