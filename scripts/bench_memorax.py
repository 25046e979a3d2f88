"""Training speed beside memorax's PPO (JAX) on bsuite's memory chain, with one and two threads.

    python -m venv jax && jax/bin/pip install memorax==1.0.1 gymnax==0.0.9
    python scripts/bench_memorax.py --memorax jax/bin/python [--rounds 9] [--page NAME]

Number of environments, row length, epochs, minibatches and width are equal. memorax has an encoder
and a GRU for the actor and one for the critic, and heads of one linear layer; so has our first
case (with a LayerNorm more in each encoder). The others are our default policies, with a memory for
both. Each trainer runs in a process that may use as many cores as it has threads. The processes
take turns of some iterations; `x memorax` is the median over rounds of ratios within a round.
*Start* is the time of the first two iterations, in which memorax compiles.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

NUM_ENVS, NUM_STEPS, WIDTH = 64, 128, 128
LENGTH = 5  # of the chain, memorax's default
WARMUP = 2


class Case(NamedTuple):
    """A library and its policy."""

    library: str
    policy: str
    core: str
    separate_critic: bool
    head_layers: int


CASES = [
    Case("memorax", "two GRUs", "gru", True, 0),
    Case("rlmem", "two GRUs, heads of one layer", "gru", True, 0),
    Case("rlmem", "gru", "gru", False, 1),
    Case("rlmem", "ffm", "ffm", False, 1),
]


def ours(case: Case, threads: int) -> tuple[Callable[[], float], int]:
    """One iteration of our PPO, which returns its seconds, and the number of parameters."""
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as the command line does
    import torch

    from rlmem import envs
    from rlmem.algos.ppo import PPO
    from rlmem.envs.seeding import train_seeds
    from rlmem.policies import ActorCritic

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    env = envs.make("memory-chain", num_envs=NUM_ENVS, length=LENGTH)
    policy = ActorCritic(
        env.observation_space,
        env.action_space,
        core=case.core,
        hidden_size=WIDTH,
        separate_critic=case.separate_critic,
        head_layers=case.head_layers,
    )
    seeds = train_seeds(0, NUM_ENVS)
    ppo = PPO(env, policy, seeds, NUM_STEPS, separate_critic=case.separate_critic)

    def iterate() -> float:
        begun = time.perf_counter()
        ppo.iterate(0.0)
        return time.perf_counter() - begun

    return iterate, sum(parameter.numel() for parameter in policy.parameters())


def theirs() -> tuple[Callable[[], float], int]:
    """The same of memorax."""
    import memorax_ppo

    return memorax_ppo.training(NUM_ENVS, NUM_STEPS, WIDTH, "cpu")


def work(index: int, threads: int) -> None:
    """A worker: for each number on stdin, run so many iterations, and print wall and CPU time."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    case = CASES[index]
    iterate, parameters = theirs() if case.library == "memorax" else ours(case, threads)
    start = sum(iterate() for _ in range(WARMUP))
    print(json.dumps({"start": start, "parameters": parameters}), flush=True)
    for line in sys.stdin:
        begun = time.process_time()
        seconds = sum(iterate() for _ in range(int(line)))
        print(json.dumps([seconds, time.process_time() - begun]), flush=True)


class Worker:
    """A process that trains one case, and its speeds."""

    def __init__(self, case: Case, threads: int, python: str) -> None:
        self.case, self.threads = case, threads
        self.speeds: list[float] = []
        self.busy: list[float] = []  # CPU seconds of an iteration
        command = [python, __file__, "--work", str(CASES.index(case)), str(threads)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process: Any = subprocess.Popen(command, text=True, **pipes)
        self.about = self.read()

    def read(self) -> Any:
        """The worker's next line; ends the program if there is none."""
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.case.library} with {self.case.policy} has failed")
        return json.loads(line)

    def run(self, iterations: int) -> None:
        """Take a turn."""
        self.process.stdin.write(f"{iterations}\n")
        self.process.stdin.flush()
        seconds, busy = self.read()
        self.speeds.append(NUM_ENVS * NUM_STEPS * iterations / seconds)
        self.busy.append(busy / iterations)

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def measure(threads: int, args: argparse.Namespace) -> list[dict[str, str]]:
    """Rows of all cases with so many threads."""
    pythons = {"memorax": args.memorax, "rlmem": sys.executable}
    workers = [Worker(case, threads, pythons[case.library]) for case in CASES]
    for _ in range(args.rounds):
        for worker in workers:
            worker.run(args.iterations)
        print(*(f"{worker.speeds[-1]:,.0f}" for worker in workers), file=sys.stderr, flush=True)
    for worker in workers:
        worker.close()
    return [row(worker, workers[0]) for worker in workers]


def row(worker: Worker, rival: Worker) -> dict[str, str]:
    """A worker's results."""
    pairs = zip(worker.speeds, rival.speeds, strict=True)
    ratios = sorted(mine / other for mine, other in pairs)
    return {
        "trainer": f"{worker.case.library}, {worker.case.policy}",
        "threads": str(worker.threads),
        "parameters": f"{worker.about['parameters']:,}",
        "start s": f"{worker.about['start']:.1f}",
        "CPU s an iteration": f"{statistics.median(worker.busy):.2f}",
        "steps/s": f"{statistics.median(worker.speeds):,.0f}",
        "x memorax": f"{statistics.median(ratios):.2f}",
        "smallest, largest": f"{ratios[0]:.2f}, {ratios[-1]:.2f}",
    }


def main() -> None:
    """Measure with each number of threads."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--memorax", type=Path, help="python with memorax")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--iterations", type=int, default=3, help="of a turn")
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    parser.add_argument("--work", nargs=2, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(*args.work)
        return
    if args.memorax is None:
        parser.error("--memorax is needed: the python of an environment with memorax")
    from pages import publish

    rows = [each for threads in args.threads for each in measure(threads, args)]
    sizes = f"{NUM_ENVS} x {NUM_STEPS} steps, 4 epochs of 8 minibatches, width {WIDTH}"
    turns = f"{args.rounds} turns of {args.iterations} iterations"
    publish(f"PPO on bsuite's memory chain, {sizes}, float32, medians of {turns}", rows, args.page)


if __name__ == "__main__":
    main()
