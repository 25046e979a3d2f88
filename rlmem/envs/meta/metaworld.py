"""Meta-World: manipulation tasks with hidden goals (ML1 and ML10)."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray

from rlmem.envs.base import VecEnv, register
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.gym_ids import require
from rlmem.envs.meta.packaged import Simulator, in_trials
from rlmem.envs.meta.splits import TRAIN, Instances, Splits, Values
from rlmem.errors import UsageError, positive, unknown

BENCHMARKS = ("ml1", "ml10")
# The package's sizes. Rewards of a step are between 0 and 10; episodes have at most 500 steps.
NUMBERS, CONTROLS, LONGEST = 39, 4, 500


class MetaWorld(Simulator):
    """Tasks of a benchmark by index: first its training tasks, then its test tasks.

    Rewards, observations (with zeros in place of the goal) and actions are the package's.
    """

    def __init__(
        self,
        benchmark: str,
        name: str,
        tasks_seed: int,
        length: int,
    ) -> None:
        self.observation_space = Box(-np.inf, np.inf, (NUMBERS,), np.float32)
        self.action_space = Box(-1.0, 1.0, (CONTROLS,), np.float32)
        self.benchmark = _benchmark(benchmark, name, tasks_seed)
        self.classes = {**self.benchmark.train_classes, **self.benchmark.test_classes}
        self.length = length
        self.envs: dict[str, Any] = {}

    def set_task(self, task: dict[str, Any], draws: RandomDraws) -> None:
        """Set a goal of a task."""
        chosen = [*self.benchmark.train_tasks, *self.benchmark.test_tasks][task["task"]]
        if chosen.env_name not in self.envs:
            self.envs[chosen.env_name] = self.classes[chosen.env_name]()
        self.env = self.envs[chosen.env_name]
        self.env.set_task(chosen)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """The arm at rest. Positions of objects belong to the task."""
        self.steps = 0
        obs, _ = self.env.reset(seed=seed)
        return obs, {}

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """The package's step."""
        self.steps += 1
        obs, reward, terminated, truncated, _ = self.env.step(action)
        late = bool(truncated) or self.steps == self.length
        return obs, float(reward), bool(terminated), late, {}

    def close(self) -> None:
        """Close the package's environments."""
        for env in self.envs.values():
            env.close()


@cache
def _benchmark(benchmark: str, name: str, tasks_seed: int) -> Any:
    import metaworld

    return metaworld.ML10(tasks_seed) if benchmark == "ml10" else metaworld.ML1(name, tasks_seed)


@register("meta-metaworld")
def make_metaworld(
    num_envs: int,
    split: str = TRAIN,
    episodes: int = 3,
    horizon: int = 3,
    stop_returns: bool = False,
    benchmark: str = "ml1",
    task: str = "reach-v3",
    tasks_seed: int = 0,
    length: int = LONGEST,
    vectorization: str = "sync",
    check_obs: bool = True,
    device: torch.device | str = "cpu",
) -> VecEnv:
    """Meta-World (Yu et al. 2019, arXiv 1910.10897). `ml1` trains on 50 goals of `task` and holds
    out 50 others; `ml10` trains on 10 tasks and holds out 5 others, with 50 goals each.

    `tasks_seed` determines the goals. Raises `UsageError` if `metaworld` is missing.
    """
    require("metaworld", "env 'meta-metaworld'")
    if benchmark not in BENCHMARKS:
        raise unknown("benchmark", benchmark, BENCHMARKS)
    import metaworld

    if task not in metaworld.ML1.ENV_NAMES:
        raise unknown("task of Meta-World", task, metaworld.ML1.ENV_NAMES)
    if positive("length", length) > LONGEST:
        raise UsageError(f"length must be at most {LONGEST}, not {length}")
    found = _benchmark(benchmark, task, tasks_seed)
    count, whole = len(found.train_tasks), len(found.train_tasks) + len(found.test_tasks)
    parameters = (benchmark, task if benchmark == "ml1" else "", tasks_seed, length)
    splits = Splits(
        {"task": Values(tuple(range(count))), "benchmark": Instances("metaworld", parameters)},
        heldout={"task": Values(tuple(range(count, whole)))},
    )
    make = partial(MetaWorld, benchmark=benchmark, name=task, tasks_seed=tasks_seed, length=length)
    trials = (split, episodes, horizon, stop_returns, num_envs, vectorization, check_obs, device)
    return in_trials(make, splits, *trials)
