"""Batches of Gymnasium environments, on gymnasium's own vector environments."""

from __future__ import annotations

import copy
import difflib
import importlib.util
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import iterate
from numpy.typing import NDArray
from torch import Tensor

from rlmem.envs.base import Spaces, Tensors, Transition, VecEnv, register
from rlmem.envs.previous_action import PreviousAction
from rlmem.envs.spaces import ActionSpace, FlatSpace, batch
from rlmem.errors import UsageError, positive, unknown

EnvFn = Callable[[], gym.Env]

# Packages needed by environments of Gymnasium itself; rlmem has extras of the same names.
EXTRAS = ("mujoco",)


class GymVecEnv:
    """The environments made by `env_fns`, as a `VecEnv`.

    `vectorization` is `sync` (one after the other in this process) or `async` (one process each,
    faster if a step takes much longer than a message between processes, about 0.1 ms). Raises
    `UsageError` for spaces that have no tensor form.
    """

    def __init__(
        self,
        env_fns: Sequence[EnvFn],
        vectorization: str = "sync",
        device: torch.device | str = "cpu",
    ) -> None:
        if vectorization not in VECTORIZATIONS:
            raise unknown("vectorization", vectorization, VECTORIZATIONS)
        positive("the number of environments", len(env_fns))
        # Checks the spaces first: gymnasium's error for an unknown space is hard to understand.
        probe = env_fns[0]()
        try:
            self._obs = FlatSpace("obs", probe.observation_space)
            self._action = ActionSpace("action", probe.action_space)
        finally:
            probe.close()
        self.num_envs = len(env_fns)
        self.device = torch.device(device)
        self.observation_space: Spaces = self._obs.spaces
        self.action_space: Spaces = self._action.spaces
        self.envs: Any = VECTORIZATIONS[vectorization](env_fns)
        self._was_reset = False

    def reset(self, seed: int | Sequence[int] | None = None) -> Tensors:
        """Start a new episode in every environment. An int seeds environment i with `seed + i`."""
        if not (seed is None or isinstance(seed, int)):
            seed = [int(number) for number in seed]
            if len(seed) != self.num_envs:
                raise ValueError(f"{len(seed)} seeds for {self.num_envs} environments")
        obs, _ = self.envs.reset(seed=seed)
        self._was_reset = True
        return self._to_device(self._obs.read(obs))

    def step(self, action: Tensors) -> Transition:
        """Take one action in each environment; a ValueError names the space of an invalid one."""
        if not self._was_reset:
            raise ValueError("step before reset")
        actions = self._action.write(action, self.num_envs)
        batched, reward, terminated, truncated, info = self.envs.step(actions)
        obs = self._to_device(self._obs.read(batched))
        final_obs, done = obs, terminated | truncated
        if "final_obs" in info:
            final_obs = self._scatter(obs, info["final_obs"], done)
        return Transition(
            obs,
            self._tensor(reward.astype(np.float32)),
            self._tensor(terminated),
            self._tensor(truncated),
            final_obs,
            self._tensor(done),
        )

    def close(self) -> None:
        """Close the environments and their processes."""
        self.envs.close()

    def _scatter(self, obs: Tensors, finals: NDArray[Any], done: NDArray[np.bool_]) -> Tensors:
        """`obs`, with the last observation of the ended episode in the rows that are `done`."""
        rows = torch.from_numpy(np.flatnonzero(done)).to(self.device)
        last = self._to_device(self._obs.stack(list(finals[done])))
        return {key: leaf.index_copy(0, rows, last[key]) for key, leaf in obs.items()}

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _to_device(self, tensors: Tensors) -> Tensors:
        if self.device.type == "cpu":
            return tensors
        return {key: leaf.to(self.device) for key, leaf in tensors.items()}


class SyncEnvs(SyncVectorEnv):
    """gymnasium's SyncVectorEnv in SAME_STEP mode, without its costs for infos and copies.

    `info` holds `final_obs` only, and only if an episode ended.
    """

    def __init__(self, env_fns: Sequence[EnvFn]) -> None:
        super().__init__(env_fns, autoreset_mode=AutoresetMode.SAME_STEP)

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        rows: list[Any] = []
        rewards: list[Any] = []
        terminations: list[bool] = []
        truncations: list[bool] = []
        finals: dict[int, Any] = {}
        for env, action in zip(self.envs, iterate(self.action_space, actions), strict=True):
            obs, reward, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                # The environment may reuse the array for its next observation.
                finals[len(rows)] = copy.deepcopy(obs)
                obs, _ = env.reset()
            rows.append(obs)
            rewards.append(reward)
            terminations.append(terminated)
            truncations.append(truncated)
        info: dict[str, Any] = {}
        if finals:
            info["final_obs"] = np.full(self.num_envs, None, dtype=object)
            for index, final in finals.items():
                info["final_obs"][index] = final
        return (
            batch(self.single_observation_space, rows),
            np.array(rewards, dtype=np.float64).reshape(self.num_envs),
            np.array(terminations, dtype=np.bool_),
            np.array(truncations, dtype=np.bool_),
            info,
        )


class Lean(gym.Wrapper):
    """Drops infos, which would go through a pipe, and copies final observations."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, _ = self.env.step(action)
        if terminated or truncated:
            obs = copy.deepcopy(obs)
        return obs, reward, bool(terminated), bool(truncated), {}

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        obs, _ = self.env.reset(**options)
        return obs, {}


def _lean(env_fn: EnvFn, main_process: int) -> gym.Env:
    if os.getpid() != main_process:
        # The main process handles Ctrl-C and closes the others.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return Lean(env_fn())


def async_envs(env_fns: Sequence[EnvFn]) -> VectorEnv:
    """gymnasium's AsyncVectorEnv in SAME_STEP mode.

    Its processes come from a fork server, because a fork of this process would copy torch's threads
    in an undefined state. The server imports this module once for all of them.
    """
    method = "spawn"
    if "forkserver" in multiprocessing.get_all_start_methods():
        method = "forkserver"
        multiprocessing.get_context(method).set_forkserver_preload(["__main__", __name__])
    return AsyncVectorEnv(
        [partial(_lean, env_fn, os.getpid()) for env_fn in env_fns],
        autoreset_mode=AutoresetMode.SAME_STEP,
        context=method,
    )


VECTORIZATIONS: dict[str, Callable[[Sequence[EnvFn]], VectorEnv]] = {
    "sync": SyncEnvs,
    "async": async_envs,
}


def vectorize(
    env_fn: EnvFn,
    num_envs: int,
    vectorization: str,
    device: torch.device | str,
    previous_action: bool,
) -> VecEnv:
    """`num_envs` copies of an environment, optionally with the previous action observed."""
    env = GymVecEnv([env_fn] * positive("num_envs", num_envs), vectorization, device)
    return PreviousAction(env) if previous_action else env


@register("gym")
def make_gym(
    id: str,
    num_envs: int,
    max_episode_steps: int | None = None,
    vectorization: str = "sync",
    previous_action: bool = False,
    kwargs: dict[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> VecEnv:
    """A registered Gymnasium environment; `kwargs` are its own options.

    Raises `UsageError` if there is none with that `id`, or if it cannot be made with these options.
    """
    env_fn = registered(id, max_episode_steps, kwargs or {})
    return vectorize(env_fn, num_envs, vectorization, device, previous_action)


def registered(id: str, max_episode_steps: int | None, kwargs: dict[str, Any]) -> EnvFn:
    """A factory of the environment registered as `id`; raises the errors of `make_gym`."""
    if max_episode_steps is not None and max_episode_steps < 1:
        raise UsageError(f"max_episode_steps must be at least 1, not {max_episode_steps}")
    spec = copy.deepcopy(_spec(id))
    for module in EXTRAS:
        if str(spec.entry_point).startswith(f"gymnasium.envs.{module}"):
            require(module, id)
    # GymVecEnv itself checks that `reset` comes before `step`.
    spec.order_enforce = False
    return partial(_make, spec, max_episode_steps, kwargs)


def require(module: str, what: str, extra: str | None = None) -> None:
    """Raises `UsageError`, with the extra to install, if `module` is missing."""
    if importlib.util.find_spec(module) is None:
        raise UsageError(f"{what} needs {module}: pip install 'rlmem[{extra or module}]'")


def _spec(id: str) -> EnvSpec:
    module, _, name = id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)  # registers its environments
        return gym.spec(name)
    except (gym.error.Error, ImportError) as error:
        near = difflib.get_close_matches(id, gym.registry, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else f" ({error})"
        raise UsageError(f"unknown Gymnasium id {id!r}{hint}") from error


def _make(spec: EnvSpec, max_episode_steps: int | None, kwargs: dict[str, Any]) -> gym.Env:
    try:
        return gym.make(spec, max_episode_steps, disable_env_checker=True, **kwargs)
    except (gym.error.Error, ImportError, TypeError, ValueError, AssertionError) as error:
        raise UsageError(f"cannot make {spec.id!r} with {kwargs}: {error}") from error
