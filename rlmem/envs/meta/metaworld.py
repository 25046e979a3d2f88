"""Meta-World: one arm, and tasks of manipulation whose goals are not seen (ML1 and ML10)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray

from rlmem.envs.base import VecEnv, register
from rlmem.envs.gym_env import require
from rlmem.envs.meta.packaged import Tasked, in_trials
from rlmem.envs.meta.splits import TRAIN, Domain, Instances, Splits, Values
from rlmem.envs.streams import Draws
from rlmem.errors import UsageError, positive, unknown

BENCHMARKS = ("ml1", "ml10")
# Of the package; rewards of a step are between 0 and 10, episodes have at most 500 steps.
NUMBERS, CONTROLS, LONGEST = 39, 4, 500


class MetaWorld(Tasked):
    """Tasks of a benchmark, by their place in its lists: those of training, then those of test.

    Rewards, observations (with zeros in place of the goal) and actions are the package's.
    """

    def __init__(
        self,
        domains: Mapping[str, Domain],
        split: str,
        episodes: int,
        benchmark: str,
        name: str,
        tasks_seed: int,
        length: int,
    ) -> None:
        super().__init__(domains, split, episodes)
        self.observation_space = Box(-np.inf, np.inf, (NUMBERS,), np.float32)
        self.action_space = Box(-1.0, 1.0, (CONTROLS,), np.float32)
        self.benchmark = _benchmark(benchmark, name, tasks_seed)
        self.classes = {**self.benchmark.train_classes, **self.benchmark.test_classes}
        self.length = length
        self.envs: dict[str, Any] = {}

    def take(self, task: dict[str, Any], draws: Draws) -> None:
        """Another goal, of this or another task."""
        chosen = [*self.benchmark.train_tasks, *self.benchmark.test_tasks][task["task"]]
        if chosen.env_name not in self.envs:
            self.envs[chosen.env_name] = self.classes[chosen.env_name]()
        self.env = self.envs[chosen.env_name]
        self.env.set_task(chosen)

    def begin(self, seed: int) -> NDArray[Any]:
        """The arm at rest; where things lie belongs to the task."""
        self.steps = 0
        return self.env.reset(seed=seed)[0]

    def play(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool]:
        """The package's step."""
        self.steps += 1
        obs, reward, terminated, truncated, _ = self.env.step(action)
        return obs, float(reward), bool(terminated), bool(truncated) or self.steps == self.length

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
    device: torch.device | str = "cpu",
) -> VecEnv:
    """Meta-World (Yu et al. 2019, arXiv 1910.10897): `ml1` trains on 50 goals of `task` and holds
    50 others out, `ml10` trains on 10 tasks and holds 5 out, with 50 goals each.

    `tasks_seed` decides the goals. Raises `UsageError` where `metaworld` is missing.
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
    what = (benchmark, task if benchmark == "ml1" else "", tasks_seed, length)
    splits = Splits(
        {"task": Values(tuple(range(count))), "benchmark": Instances("metaworld", what)},
        heldout={"task": Values(tuple(range(count, whole)))},
    )
    make = partial(MetaWorld, benchmark=benchmark, name=task, tasks_seed=tasks_seed, length=length)
    trials = (split, episodes, horizon, stop_returns, num_envs, vectorization, device)
    return in_trials(make, splits, *trials)
