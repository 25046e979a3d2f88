"""Compare short training runs of two commits, bit for bit.

    python scripts/compare_commits.py OLD NEW

trains every algorithm with two cores from both commits (one run on trials, one with a recorder, one
resumed) and compares `metrics.csv`, times aside, and the final weights. A renamed metric or weight
is listed and compared by its position. Exit code 1 means a difference.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
TIMES = ("seconds", "steps_per_second")
PENDULUM = "env=popgym-position-only-pendulum"
SHORT = "num_envs=8 hidden_size=32 eval_episodes=4 threads=1 log.tensorboard=false device=cpu"
REPLAY = "total_steps=1600 algo.learning_starts=400 algo.replay.capacity=4000"
ON_POLICY = "algo.num_steps=32 algo.num_minibatches=4 total_steps=1024"

# In this order: `dt` and `ad` learn from the steps that `ppo-gru` records.
RUNS = {
    "ppo-gru": f"algo=ppo core=gru record=data {ON_POLICY}",
    "ppo-s5": f"algo=ppo core=s5 env=meta-bandit {ON_POLICY}",
    "pqn-gru": f"algo=pqn core=gru {ON_POLICY}",
    "pqn-ffm": f"algo=pqn core=ffm {ON_POLICY}",
    "sac-gru": f"algo=sac core=gru {REPLAY}",
    "sac-ffm": f"algo=sac core=ffm {PENDULUM} {REPLAY}",
    "r2d2-lstm": f"algo=r2d2 core=lstm {REPLAY} algo.replay.length=16",
    "r2d2-ffm": f"algo=r2d2 core=ffm {REPLAY} algo.replay.batching=tape",
    "amago-gru": f"algo=amago core=gru {REPLAY} algo.replay.length=40",
    "amago-mingru": f"algo=amago core=mingru {PENDULUM} {REPLAY} algo.replay.length=40",
    "dt-gru": "algo=dt core=gru algo.dataset=data total_steps=60000 algo.length=32",
    "dt-deltanet": "algo=dt core=deltanet algo.dataset=data total_steps=60000 algo.length=32",
    "ad-gru": "algo=ad core=gru algo.dataset=data total_steps=60000 algo.length=64",
    "ad-lru": "algo=ad core=lru algo.dataset=data total_steps=60000 algo.length=64",
}
RESUMED = {"sac-gru": 2400}


def train(code: Path, folder: Path) -> None:
    """All runs of one checkout, each in a folder of its own."""
    folder.mkdir()
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=code, check=True
    )
    for name, options in RUNS.items():
        call(code, folder, [f"run_dir={name}", *SHORT.split(), *options.split()])
        if name in RESUMED:
            call(code, folder, [f"resume={name}", f"total_steps={RESUMED[name]}"])


def call(code: Path, folder: Path, options: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(code)}
    command = [sys.executable, "-m", "rlmem", "train", *options]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)


def metrics(run: Path) -> tuple[list[str], list[list[str]]]:
    """Column names and cells of a run's `metrics.csv`, without the times."""
    with (run / "metrics.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    kept = [i for i, column in enumerate(header) if column not in TIMES]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The weights of a run's last checkpoint."""
    return load_file(max((run / "checkpoints").glob("step-*")) / "model.safetensors")


def compare(old: Path, new: Path) -> tuple[bool, str]:
    """Whether two runs are equal, and a line about them."""
    (columns, rows), (columns_new, rows_new) = metrics(old), metrics(new)
    one, other = weights(old), weights(new)
    renamed = [
        f"{a} -> {b}"
        for a, b in [*zip(columns, columns_new, strict=False), *zip(one, other, strict=False)]
        if a != b
    ]
    same_metrics = rows == rows_new
    same_weights = len(one) == len(other) and all(
        torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True)
    )
    said = f"{len(rows)} rows {'equal' if same_metrics else 'DIFFER'}, "
    said += f"{len(one)} weights {'equal' if same_weights else 'DIFFER'}"
    return same_metrics and same_weights, said + "".join(f"; {each}" for each in renamed)


def main(old: str, new: str) -> int:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        names = []
        for commit in (old, new):
            hash_ = git("rev-parse", "--short", commit)
            names.append(f"{commit} ({hash_})")
            code = folder / f"code-{len(names)}"
            git("worktree", "add", "--detach", str(code), commit)
            try:
                train(code, folder / f"runs-{len(names)}")
            finally:
                git("worktree", "remove", "--force", str(code))
        print(f"{names[0]} and {names[1]}")
        results = {n: compare(folder / "runs-1" / n, folder / "runs-2" / n) for n in RUNS}
    for name, (_, said) in results.items():
        print(f"{name:14} {said}")
    return 0 if all(equal for equal, _ in results.values()) else 1


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python scripts/compare_commits.py OLD NEW")
    sys.exit(main(sys.argv[1], sys.argv[2]))
