"""Long trainings: resident memory and speed from their beginning to their end.

    python scripts/soak.py [--case on-policy|replay] [--steps N] [--page soak]

`on-policy` is PPO without a memory for 3 million steps, `replay` is R2D2 with 10 million steps
through a replay of one million. The table has the resident memory after a tenth of the training
(the warm-up) and its largest value afterwards, and the steps per second of the second and the last
tenth (medians over iterations).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import torch
from omegaconf import OmegaConf
from pages import publish

import rlmem
from rlmem.runs.callbacks import Training

CASES = {
    "on-policy": (3_000_000, "algo=ppo core=none num_envs=256"),
    "replay": (
        10_000_000,
        "algo.name=r2d2 core=gru num_envs=256 hidden_size=32 algo.num_steps=64 algo.num_updates=1 "
        "algo.learning_starts=20000 algo.replay.capacity=1000000",
    ),
}


class Watch(rlmem.Callback):
    """Notes resident memory and speed after every iteration."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, float]] = []

    def on_iteration(self, training: Training, metrics: Mapping[str, float]) -> None:
        """Note step, MiB and steps per second."""
        speed = float(training.row["steps_per_second"])
        self.rows.append((training.step, resident(), speed))


def resident() -> float:
    """The resident memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def measure(name: str, steps: int) -> dict[str, str]:
    """A row of the table."""
    watch = Watch()
    options = OmegaConf.to_container(OmegaConf.from_dotlist(CASES[name][1].split()))
    with tempfile.TemporaryDirectory() as folder:
        rlmem.train(
            env="popgym-repeat",
            total_steps=steps,
            run_dir=f"{folder}/run",
            eval_episodes=10,
            callbacks=[watch],
            **{"log": {"progress": False}, "threads": 1, **options},
        )
    warm = next(memory for step, memory, _ in watch.rows if step >= steps / 10)
    most = max(memory for step, memory, _ in watch.rows if step >= steps / 10)
    early = median(s for step, _, s in watch.rows if steps / 10 <= step < steps / 5)
    late = median(s for step, _, s in watch.rows if step >= 0.9 * steps)
    return {
        "case": name,
        "steps": f"{watch.rows[-1][0]:,}",
        "MiB after a tenth": f"{warm:.0f}",
        "most MiB afterwards": f"{most:.0f} ({100 * (most / warm - 1):+.1f} %)",
        "steps/s, second tenth": f"{early:,.0f}",
        "steps/s, last tenth": f"{late:,.0f} ({100 * (late / early - 1):+.1f} %)",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--steps", type=int, help="default: those of the case")
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(name, args.steps or CASES[name][0]) for name in args.case or CASES]
    publish("soak: popgym-repeat easy, 256 environments, one thread", rows, args.page)


if __name__ == "__main__":
    main()
