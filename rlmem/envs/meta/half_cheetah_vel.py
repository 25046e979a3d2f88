"""HalfCheetahVel: run at a hidden speed, which only the reward depends on."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray

from rlmem.envs.base import VecEnv, register
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.gym_ids import registered, require
from rlmem.envs.meta.packaged import Simulator, evenly, in_trials
from rlmem.envs.meta.splits import TRAIN, Instances, Splits, Values
from rlmem.errors import UsageError, positive

ID, COST = "HalfCheetah-v5", 0.05


class HalfCheetahVel(Simulator):
    """Gymnasium's HalfCheetah; a step earns -|velocity - goal| - 0.05 |action|^2."""

    def __init__(self, length: int = 200) -> None:
        self.env = registered(ID, length, {"ctrl_cost_weight": COST})()
        self.observation_space = self.env.observation_space
        self.action_space = self.env.action_space

    def set_task(self, task: dict[str, Any], draws: RandomDraws) -> None:
        """Set the goal velocity."""
        self.goal = task["velocity"]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """At rest."""
        return self.env.reset(seed=seed)

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """The package's step with the task's reward."""
        obs, _, terminated, truncated, info = self.env.step(action)
        reward = float(info["reward_ctrl"]) - abs(float(info["x_velocity"]) - self.goal)
        return obs, reward, terminated, truncated, {}

    def close(self) -> None:
        """Close the package's environment."""
        self.env.close()


@register("meta-half-cheetah-vel")
def make_half_cheetah_vel(
    num_envs: int,
    split: str = TRAIN,
    episodes: int = 2,
    horizon: int = 2,
    stop_returns: bool = False,
    tasks: int = 100,
    heldout_tasks: int = 20,
    slowest: float = 0.0,
    fastest: float = 3.0,
    tasks_seed: int = 0,
    length: int = 200,
    vectorization: str = "sync",
    check_obs: bool = True,
    device: torch.device | str = "cpu",
) -> VecEnv:
    """Uniform random goal velocities, `tasks` for training and `heldout_tasks` others, determined
    by `tasks_seed`, as in Finn et al. 2017 (MAML). The range and the episode length are those of
    Rakelly et al. 2019 (PEARL, arXiv 1903.08254). Raises `UsageError` if `mujoco` is missing.
    """
    require("mujoco", "env 'meta-half-cheetah-vel'")
    if slowest >= fastest:
        raise UsageError(f"slowest ({slowest}) must be less than fastest ({fastest})")
    count = positive("tasks", tasks) + positive("heldout_tasks", heldout_tasks)
    goals = evenly(count, slowest, fastest, tasks_seed)
    body = Instances("half-cheetah", (positive("length", length), COST))
    splits = Splits(
        {"velocity": Values(goals[:tasks]), "body": body},
        heldout={"velocity": Values(goals[tasks:])},
    )
    make = partial(HalfCheetahVel, length=length)
    trials = (split, episodes, horizon, stop_returns, num_envs, vectorization, check_obs, device)
    return in_trials(make, splits, *trials)
