"""PPO with one core on popgym-repeat: speed, memory and waits per number of environments.

On a GPU every number is measured without CUDA graphs, then with them, and training has them.

The last case trains until the greedy return is 0.95, with the most environments whose iterations
are nearly as short as the shortest: the number of iterations hardly depends on the size (on a CPU,
20 with 64 environments and 15 with 512). Hydra, torchrl and popgym are not needed.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gpu_check_worker import Deadline, emit, free, parser, prepare, serve, synchronize

from rlmem import envs
from rlmem.algos.ppo import PPO
from rlmem.compiled import Graphs
from rlmem.envs.seeding import eval_seeds, train_seeds
from rlmem.policies import ActorCritic

TASK, GOAL = "popgym-repeat", 0.95
SIZES, SMALL = (4096, 1024, 16384), (8,)
STEPS, SMALL_STEPS = 128, 16
CAPTURES = 3  # iterations until all graphs are captured
MOST_ITERATIONS = 5  # measured for a size
SPEED_SECONDS = 8.0  # for a size, after the first iteration
EPISODES, EVALUATE_EVERY = 512, 2  # greedy episodes of an evaluation, and iterations between two
NEARLY = 1.25  # times the shortest iteration
NAMED_WAITS = 4  # places in the code that are listed


class Solve(NamedTuple):
    """The case that trains to the goal."""


class Trainer:
    """PPO on `num_envs` environments that measures the time to collect."""

    def __init__(
        self,
        core: str,
        num_envs: int,
        options: argparse.Namespace,
        separate_critic: bool = False,
        graphs: bool = False,
    ) -> None:
        torch.manual_seed(0)
        self.device = options.device
        steps = SMALL_STEPS if options.small else STEPS
        env = envs.make(options.task, num_envs=num_envs, device=self.device)
        spaces = env.observation_space, env.action_space
        self.policy = ActorCritic(*spaces, core=core, separate_critic=separate_critic)
        self.policy.to(self.device)
        self.ppo = PPO(
            env,
            self.policy,
            train_seeds(0, num_envs),
            num_steps=steps,
            anneal_lr=False,
            separate_critic=separate_critic,
        )
        if graphs:
            self.ppo.compile(Graphs(torch.device(self.device), say=note))
        self.steps = self.ppo.steps_per_iteration
        self.collecting = 0.0
        self.collector: Any = self.ppo.collector
        self.collect = self.collector.collect

        def timed() -> Any:
            begun = self.now()
            rollout = self.collect()
            self.collecting += self.now() - begun
            return rollout

        self.collector.collect = timed

    def now(self) -> float:
        """The time in seconds, once the device has finished."""
        synchronize(self.device)
        return time.perf_counter()

    def iterate(self) -> tuple[float, float]:
        """One iteration; its seconds, and those of collecting."""
        self.collecting = 0.0
        begun = self.now()
        self.ppo.iterate(0.0)
        return self.now() - begun, self.collecting


def note(line: str) -> None:
    """A line in the report."""
    emit("note", text=line)


def speed(core: str, num_envs: int, options: argparse.Namespace, seconds: float) -> float:
    """Measure a size for some seconds, on a GPU both ways; returns the seconds of an iteration."""
    if options.device != "cuda":
        return measure(core, num_envs, options, seconds, graphs=False)
    measure(core, num_envs, options, seconds / 2, graphs=False)
    free(options.device)
    return measure(core, num_envs, options, seconds / 2, graphs=True)


def measure(
    core: str, num_envs: int, options: argparse.Namespace, seconds: float, graphs: bool
) -> float:
    """Measure a size for some seconds; returns the seconds of an iteration."""
    cuda = options.device == "cuda"
    trainer = Trainer(core, num_envs, options, graphs=graphs)
    begun = trainer.now()
    # Every step of the episodes is captured when it comes the second time.
    for _ in range(CAPTURES if graphs else 1):
        trainer.iterate()
    first = trainer.now() - begun
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    end = trainer.now() + min(seconds, SPEED_SECONDS)
    times: list[tuple[float, float]] = []
    while not times or (trainer.now() < end and len(times) < MOST_ITERATIONS):
        times.append(trainer.iterate())
    whole, collecting = (statistics.median(each) for each in zip(*times, strict=True))
    row: dict[str, Any] = {"core": core, "envs": num_envs, "graphs": ("no", "yes")[graphs]}
    row["steps_s"] = trainer.steps / whole
    row |= {"collect_s": collecting, "update_s": whole - collecting, "first_s": first}
    if cuda:
        row["peak_mb"] = torch.cuda.max_memory_allocated() / 2**20
    emit("row", **row)
    if cuda:
        count_waits(trainer, row)
    return whole


def count_waits(trainer: Trainer, row: dict[str, Any]) -> None:
    """The waits for the device in one iteration, and the places in the code with the most."""
    trainer.collector.collect = trainer.collect
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            trainer.ppo.iterate(0.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [each for each in caught if "synchroniz" in str(each.message)]
    places = Counter(f"{Path(each.filename).name}:{each.lineno}" for each in waits)
    same = ("core", "envs", "graphs")
    emit("update", **{key: row[key] for key in same if key in row}, waits=len(waits))
    named = ", ".join(f"{place} x{count}" for place, count in places.most_common(NAMED_WAITS))
    note(f"waits of {row['core']} at {row['envs']} environments: {named or 'none'}")


@torch.no_grad()
def greedy_return(trainer: Trainer, task: str) -> float:
    """The mean return of greedy episodes on unseen seeds."""
    env = envs.make(task, num_envs=EPISODES, device=trainer.device)
    obs, state = env.reset(eval_seeds(0, EPISODES)), trainer.policy.initial_state(EPISODES)
    start = torch.ones(EPISODES, dtype=torch.bool, device=trainer.device)
    over, total = ~start, torch.zeros(EPISODES, device=trainer.device)
    while not over.all():
        act = trainer.policy.act(obs, state, start, deterministic=True)
        step, state = env.step(act.action), act.state
        total += torch.where(over, 0, step.reward)
        obs, start = step.obs, step.memory_reset
        over = over | start
    return total.mean().item()


def solve(core: str, num_envs: int, options: argparse.Namespace, deadline: Deadline) -> None:
    """Train until the goal is reached or the time is over."""
    synchronize(options.device)
    begun = time.perf_counter()
    trainer = Trainer(core, num_envs, options, graphs=options.device == "cuda")
    found, iterations, longest = -1.0, 0, 0.0
    while found < GOAL and deadline.remaining() > 2 * longest + 1 and iterations < options.most:
        before = trainer.now()
        for _ in range(EVALUATE_EVERY):
            trainer.iterate()
        iterations += EVALUATE_EVERY
        found = greedy_return(trainer, options.task)
        longest = max(longest, trainer.now() - before)
    seconds, steps = trainer.now() - begun, iterations * trainer.steps
    emit("row", core=core, envs=num_envs, goal=GOAL, seconds=seconds, steps=steps, result=found)


def main() -> None:
    made = parser((__doc__ or "").splitlines()[0])
    made.add_argument("core")
    made.add_argument("--task", default=TASK)
    made.add_argument("--most", type=int, help="iterations of training at most")
    options = made.parse_args()
    options.most = options.most or (2 * EVALUATE_EVERY if options.small else 10**6)
    prepare(options.device)
    sizes = SMALL if options.small else SIZES
    seconds: dict[int, float] = {}  # of an iteration, by size

    def run(case: int | Solve, deadline: Deadline) -> None:
        if isinstance(case, Solve):
            limit = NEARLY * min(seconds.values(), default=0.0)
            best = max((size for size in seconds if seconds[size] <= limit), default=sizes[0])
            solve(options.core, best, options, deadline)
        else:
            seconds[case] = speed(options.core, case, options, deadline.remaining() / 3)

    serve([*sizes, Solve()], run, lambda case: title(options.core, case), options)


def title(core: str, case: int | Solve) -> str:
    """A case in words."""
    return f"PPO {core} " + ("to the goal" if isinstance(case, Solve) else f"{case} environments")


if __name__ == "__main__":
    main()
