"""Steps per second of environment, collecting and training for 64 to 65,536 environments.

    python scripts/bench_num_envs.py [--cores ffm gru] [--rounds 3] [--page bench-num-envs]

PPO on popgym-repeat with default options: rows of 128 steps, 4 epochs of 8 minibatches, width 128.
An iteration of 65,536 environments takes minutes. So its parts are measured: some steps of
collecting, the estimate of advantages, and the update with one minibatch of repeated steps. An
iteration is 128 of the first, one of the second and 32 of the third. There are more minibatches if
one would need more than `--gigabytes`. Each core and number of threads has a process, which may use
as many cores; the processes take turns with each number of environments. Above 4,096 they have one
turn.

*One layer* is the output of one layer of the network for a minibatch; *memory* is the peak of
resident memory during the update, with about 0.3 GB of libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES = (64, 256, 1024, 4096, 16384, 65536)
TASK, STEPS, WIDTH, EPOCHS, MINIBATCHES = "popgym-repeat", 128, 128, 4, 8
COLLECTED = 4  # steps of collecting in a measurement
SECONDS = 0.3  # of a measurement, at least
LARGE = 4096  # more environments are measured in the first round only
BUSY = "BENCH_BUSY"  # in the environment of workers that measure CPU time
BYTES = 12_000  # of a step in a minibatch with its backward pass (measured with ffm)


def clock(run: Callable[[], object]) -> float:
    """Seconds of a call, the median of as many as fill `SECONDS`."""
    now = time.process_time if BUSY in os.environ else time.perf_counter
    run()
    times: list[float] = []
    while sum(times) < SECONDS:
        begun = now()
        run()
        times.append(now() - begun)
    return statistics.median(times)


def status(name: str) -> float:
    """A size of this process in GB, as the system counts it."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1e6 for line in file if line.startswith(name))


def measure(core: str, num_envs: int, gigabytes: float) -> dict[str, float]:
    """The times of the parts of an iteration, and the peak of memory."""
    import torch

    from rlmem import envs
    from rlmem.algos.ppo import PPO
    from rlmem.data.returns import gae
    from rlmem.envs.seeding import train_seeds
    from rlmem.policies import ActorCritic

    torch.manual_seed(0)
    env = envs.make(TASK, num_envs=num_envs)
    policy = ActorCritic(env.observation_space, env.action_space, core=core, hidden_size=WIDTH)
    ppo = PPO(env, policy, train_seeds(0, num_envs), COLLECTED)
    action = {"action": torch.randint(4, (num_envs,))}
    found = {"env": clock(lambda: env.step(action))}
    collector = ppo.collector

    def value() -> Any:
        with torch.no_grad():
            return policy.value(collector.obs, collector.state, collector.start)

    # A row needs one value more than it has steps.
    once = clock(value)
    found["collect"] = (clock(collector.collect) - once) / COLLECTED + once / STEPS
    rollout = collector.collect()
    state, last = rollout.state, rollout.last_obs
    rollout = type(rollout)(*map(repeated, row_of(rollout)), state=state, last_obs=last)
    values = rollout.reward, rollout.value, rollout.next_value
    ends = rollout.terminated, rollout.truncated

    def estimate() -> Any:
        return gae(*values, *ends, gamma=ppo.gamma, gae_lambda=ppo.gae_lambda)

    found["advantages"] = clock(estimate)
    advantage, target = estimate()
    minibatches = MINIBATCHES
    while num_envs * STEPS / minibatches * BYTES > gigabytes * 1e9:
        minibatches *= 2
    rows = torch.randperm(num_envs)[: num_envs // minibatches]

    def update() -> None:
        loss, _ = ppo.loss(rollout, rows, advantage[rows], target[rows])
        ppo.optimizer.step(loss, "a measurement")

    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak of memory begins again
    found["update"] = clock(update)
    return found | {"minibatches": minibatches, "memory": status("VmHWM")}


def repeated(leaves: Any) -> Any:
    """A tensor [B, T, ...], or a dict of them, with as many steps as a row has."""
    if isinstance(leaves, dict):
        return {key: repeated(leaf) for key, leaf in leaves.items()}
    return leaves.repeat(1, STEPS // COLLECTED, *[1] * (leaves.dim() - 2))


def row_of(rollout: Any) -> tuple[Any, ...]:
    """The fields of a rollout with a dimension of time, in their order."""
    return (
        rollout.obs,
        rollout.action,
        rollout.log_prob,
        rollout.value,
        rollout.next_value,
        rollout.reward,
        rollout.start,
        rollout.terminated,
        rollout.truncated,
    )


def work(core: str, threads: int, gigabytes: float) -> None:
    """A worker: measures each number of environments that stdin names."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as the command line does
    import torch

    torch.set_num_threads(threads)
    for line in sys.stdin:
        print(json.dumps(measure(core, int(line), gigabytes)), flush=True)


def start(core: str, threads: int, gigabytes: float) -> Any:
    """Start a worker."""
    command = [sys.executable, __file__, "--work", core, str(threads)]
    command += ["--gigabytes", str(gigabytes)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]


def ask(worker: Any, num_envs: int) -> dict[str, float]:
    """A worker's results for a number of environments; ends the program if it has failed."""
    worker.stdin.write(f"{num_envs}\n")
    worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"a worker has failed with {num_envs} environments")
    return json.loads(line)


def row(core: str, threads: int, num_envs: int, found: list[dict[str, float]]) -> dict[str, str]:
    """A row of the table, from the medians over rounds."""
    of = {key: statistics.median(each[key] for each in found) for key in found[0]}
    memory = min(each["memory"] for each in found)  # of a round without larger ones before
    minibatches = round(of["minibatches"])
    collecting = STEPS * of["collect"]
    updating = of["advantages"] + EPOCHS * minibatches * of["update"]
    steps = num_envs * STEPS
    return {
        "core": core,
        "threads": str(threads),
        "environments": f"{num_envs:,}",
        "environment steps/s": f"{num_envs / of['env'] / 1e6:.1f}M",
        "collected steps/s": f"{num_envs / of['collect']:,.0f}",
        "updated steps/s": f"{steps / minibatches / of['update']:,.0f}",
        "trained steps/s": f"{steps / (collecting + updating):,.0f}",
        "collecting": f"{100 * collecting / (collecting + updating):.0f} %",
        "minibatches": str(minibatches),
        "one layer": f"{steps / minibatches * WIDTH * 4 / 2**20:,.1f} MB",
        "memory": f"{memory:.1f} GB",
    }


def caches() -> str:
    """The sizes of the first core's caches of data."""
    found = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (folder / name for name in ("level", "type", "size"))
        if kind.exists() and kind.read_text().strip() != "Instruction":
            found.append(f"L{level.read_text().strip()} {size.read_text().strip()}")
    return ", ".join(found) or "unknown"


def main() -> None:
    """Measure in turns, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cores", nargs="+", default=["ffm", "gru"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gigabytes", type=float, default=1.5, help="of a minibatch at most")
    parser.add_argument("--busy", action="store_true", help="CPU time, of --threads 1")
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work[0], int(args.work[1]), args.gigabytes)
        return
    from pages import publish

    if args.busy:
        os.environ[BUSY] = "1"
    pairs = [(core, threads) for core in args.cores for threads in args.threads]
    workers = {pair: start(*pair, args.gigabytes) for pair in pairs}
    found: dict[tuple[str, int, int], list[dict[str, float]]] = defaultdict(list)
    for number in range(args.rounds):
        for num_envs in args.sizes:
            if number and num_envs > LARGE:
                continue
            for pair, worker in workers.items():
                found[*pair, num_envs].append(ask(worker, num_envs))
                print(*pair, num_envs, found[*pair, num_envs][-1], file=sys.stderr, flush=True)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    rows = [row(*case, found[case]) for case in sorted(found)]
    sizes = f"rows of {STEPS} steps, {EPOCHS} epochs, width {WIDTH}, median of {args.rounds} rounds"
    sizes += " of CPU time" if args.busy else ""
    publish(f"PPO on {TASK}, {sizes}; data caches of a core: {caches()}", rows, args.page)


if __name__ == "__main__":
    main()
