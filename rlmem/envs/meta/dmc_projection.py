"""The DeepMind control suite behind random matrices on observations and actions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray

from rlmem.envs.base import VecEnv, register
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.gym_ids import require
from rlmem.envs.meta.packaged import Simulator, in_trials
from rlmem.envs.meta.projection import GAIN, orthogonal
from rlmem.envs.meta.splits import TRAIN, Instances, Splits, Values
from rlmem.errors import UsageError, positive, unknown

# The tasks of the suite with at most 12 observed numbers and 2 controls.
FAMILIES = (
    "cartpole-balance",
    "cartpole-swingup",
    "finger-spin",
    "pendulum-swingup",
    "point_mass-easy",
    "reacher-easy",
)
HELDOUT_FAMILIES = ("acrobot-swingup", "ball_in_cup-catch")


class DMCProjection(Simulator):
    """Tasks of the suite behind the matrices of `Projection`, without scaling of the observations.

    Rewards are those of the suite, in [0, 1], divided by `length`.
    """

    def __init__(
        self,
        names: Sequence[str],
        obs_dim: int,
        act_dim: int,
        length: int,
    ) -> None:
        self.names, self.length = names, length
        self.obs_dim, self.act_dim = obs_dim, act_dim
        self.observation_space = Box(-np.inf, np.inf, (obs_dim,), np.float32)
        self.action_space = Box(-1.0, 1.0, (act_dim,), np.float32)
        self.suite: dict[str, Any] = {}

    def set_task(self, task: dict[str, Any], draws: RandomDraws) -> None:
        """Set a task of the suite, with new matrices."""
        name = self.names[task["family"]]
        if name not in self.suite:
            self.suite[name] = _load(name)
        self.env = self.suite[name]
        self.control = self.env.action_spec()
        seen = sum(int(np.prod(spec.shape)) for spec in self.env.observation_spec().values())
        self.sight = GAIN * orthogonal(draws, self.obs_dim, seen)[0].numpy()
        self.grip = GAIN * orthogonal(draws, self.act_dim, self.control.shape[0])[0].numpy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """The initial state of the suite for this seed."""
        self.steps = 0
        self.env.task.random.seed(seed)
        return self._observe(self.env.reset()), {}

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """One control step of the suite. Its own time limit and `length` truncate."""
        self.steps += 1
        low, high = self.control.minimum, self.control.maximum
        fraction = (np.clip(action @ self.grip, -1, 1) + 1) / 2
        step = self.env.step(low + fraction * (high - low))
        failed = step.last() and step.discount == 0
        late = self.steps == self.length or step.last()
        return self._observe(step), step.reward / self.length, failed, late and not failed, {}

    def _observe(self, step: Any) -> NDArray[Any]:
        seen = np.concatenate([np.ravel(leaf) for leaf in step.observation.values()])
        return (self.sight @ seen).astype(np.float32)


def _load(name: str) -> Any:
    from dm_control import suite

    return suite.load(*name.split("-", 1))


def _check(names: Sequence[str]) -> None:
    from dm_control import suite

    known = {f"{domain}-{task}" for domain, task in suite.ALL_TASKS}
    for name in names:
        if name not in known:
            raise unknown("task of the control suite", name, known)


@register("meta-dmc-projection")
def make_dmc_projection(
    num_envs: int,
    split: str = TRAIN,
    episodes: int = 4,
    horizon: int = 4,
    stop_returns: bool = True,
    families: Sequence[str] | None = None,
    heldout_families: Sequence[str] | None = None,
    obs_dim: int = 12,
    act_dim: int = 2,
    length: int = 1000,
    vectorization: str = "sync",
    check_obs: bool = True,
    device: torch.device | str = "cpu",
) -> VecEnv:
    """Tasks of the suite (Tassa et al. 2018, arXiv 1801.00690) with new matrices in each trial,
    after Lu et al. 2023. Held out are other matrices (`heldout`) and other tasks
    (`heldout-families`).

    Raises `UsageError` if `dm_control` is missing or a task is unknown.
    """
    require("dm_control", "env 'meta-dmc-projection'", extra="dmc")
    train = list(FAMILIES if families is None else families)
    held = list(HELDOUT_FAMILIES if heldout_families is None else heldout_families)
    if not train or not held:
        raise UsageError("families and heldout_families must each name at least one task")
    names = sorted({*train, *held})
    _check(names)
    sizes = (positive("obs_dim", obs_dim), positive("act_dim", act_dim), positive("length", length))
    splits = Splits(
        {
            "family": Values(tuple(map(names.index, train))),
            "projection": Instances("orthogonal", ("dmc", *names, *sizes)),
        },
        heldout_families={"family": Values(tuple(map(names.index, held)))},
    )
    make = partial(DMCProjection, names=names, obs_dim=obs_dim, act_dim=act_dim, length=length)
    trials = (split, episodes, horizon, stop_returns, num_envs, vectorization, check_obs, device)
    return in_trials(make, splits, *trials)
