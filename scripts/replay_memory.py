"""Resident memory of a process with a replay in files, while it is filled, overwritten and sampled.

    python scripts/replay_memory.py [--capacity 10000000] [--batching segments tape]
                                     [--directory FOLDER] [--page replay]

An entry has an observation of 400 bytes, an action, a reward and flags; every 20th entry also has a
stored state of 4 kB. Episodes have 50 steps. The files are in a new folder in FOLDER (default: the
system's folder for temporary files), which is deleted at the end. Resident memory is that of the
whole process as reported by Linux, which includes pages of mapped files: before the replay is
created, and the peak after that.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from gymnasium import spaces
from pages import publish
from torch import Tensor

from rlmem.data.replay import Replay
from rlmem.envs.base import Tensors, Transition
from rlmem.policies import QPolicy

NUM_ENVS = 64
EPISODE = 50
WIDTH = 1024


class Stream:
    """Environments with precomputed random observations, so that only the replay takes time."""

    num_envs = NUM_ENVS
    device = torch.device("cpu")
    observation_space = {"obs": spaces.Box(-1, 1, (100,))}  # noqa: RUF012
    action_space = {"action": spaces.Discrete(4)}  # noqa: RUF012

    def __init__(self) -> None:
        self.observations = torch.randn(64, NUM_ENVS, 100)
        self.time = 0

    def step(self) -> Transition:
        """The next step of all environments."""
        self.time += 1
        obs = {"obs": self.observations[self.time % 64]}
        over = torch.full((NUM_ENVS,), self.time % EPISODE == 0)
        return Transition(obs, torch.ones(NUM_ENVS), over, ~over & over, obs, over)


def resident(kind: str) -> float:
    """Resident memory in MiB: `RSS` (current) or `HWM` (peak)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"Vm{kind}:")[1].split()[0]) / 1024


def fill(replay: Replay, env: Stream, steps: int, every: int) -> tuple[float, float]:
    """Add `steps` steps, sample after every `every`; returns the seconds of adding and sampling."""
    action: Tensors = {"action": torch.zeros(NUM_ENVS, dtype=torch.int64)}
    state: Tensor = replay.policy.initial_state(NUM_ENVS)
    obs, start = env.step().obs, torch.ones(NUM_ENVS, dtype=torch.bool)
    adding = sampling = 0.0
    for t in range(steps):
        begun = time.perf_counter()
        step = env.step()
        replay.add(obs, start, state, action, step)
        obs, start = step.obs, step.memory_reset
        adding += time.perf_counter() - begun
        if t % every == every - 1 and replay.ready:
            begun = time.perf_counter()
            batch = replay.sample(0.0)
            replay.update_priorities(batch.segment, torch.rand(len(batch.segment)))
            sampling += time.perf_counter() - begun
    return adding, sampling


def measure(batching: str, capacity: int, directory: str | None) -> dict[str, str]:
    """One row of the table; must run in its own process, whose peak memory it measures."""
    torch.set_num_threads(1)
    env = Stream()
    policy = QPolicy(env.observation_space, env.action_space, core="gru", hidden_size=WIDTH)
    before = resident("RSS")
    steps, every = capacity * 11 // 10 // NUM_ENVS, 64
    if directory:
        Path(directory).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        files = Path(folder) / "replay"
        replay = Replay(
            env,  # type: ignore[arg-type]
            policy,
            capacity=capacity,
            directory=str(files),
            batching=batching,
            batch_size=32,
            length=80,
        )
        adding, sampling = fill(replay, env, steps, every)
        size = sum(each.stat().st_size for each in files.rglob("*") if each.is_file())
    return {
        "batching": batching,
        "entries": f"{int((replay.storage.head - replay.storage.oldest).sum()):,}",
        "files MiB": f"{size / 2**20:,.0f}",
        "resident before MiB": f"{before:,.0f}",
        "peak MiB": f"{resident('HWM'):,.0f}",
        "us per add": f"{1e6 * adding / steps:.0f}",
        "ms per sample": f"{1e3 * sampling / (steps // every):.1f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--capacity", type=int, default=10_000_000)
    parser.add_argument("--batching", nargs="+", default=["segments", "tape"])
    parser.add_argument("--directory")
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    args = parser.parse_args()
    rows = []
    for batching in args.batching:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            rows.append(pool.submit(measure, batching, args.capacity, args.directory).result())
        print(*rows[-1].values(), sep=" | ", flush=True)
    publish(f"replay in files, {NUM_ENVS} environments, 32 rows of 80 steps", rows, args.page)


if __name__ == "__main__":
    main()
