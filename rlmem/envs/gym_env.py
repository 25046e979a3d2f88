"""Any Gymnasium environment, N copies at once, on gymnasium's own vector environments."""

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

# Packages that our extras of the same name install, for environments of Gymnasium's own.
EXTRAS = ("mujoco",)


class GymVecEnv:
    """The environments that `env_fns` make, as a `VecEnv`.

    `vectorization` is `sync` (one after the other in this process) or `async` (a process for each,
    which pays where a step takes much longer than a message to another process, about 0.1 ms).
    Raises `UsageError` for spaces that have no tensors.
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
        # Looks at one first: for a space it does not know, gymnasium's error would be a riddle.
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
        """Start a new episode everywhere. An int seeds environment i with `seed + i`."""
        if not (seed is None or isinstance(seed, int)):
            seed = [int(number) for number in seed]
            if len(seed) != self.num_envs:
                raise ValueError(f"{len(seed)} seeds for {self.num_envs} environments")
        obs, _ = self.envs.reset(seed=seed)
        self._was_reset = True
        return self._to_device(self._obs.read(obs))

    def step(self, action: Tensors) -> Transition:
        """Play one action each; a ValueError names the space that an action is not in."""
        if not self._was_reset:
            raise ValueError("step before reset")
        actions = self._action.write(action, self.num_envs)
        batched, reward, terminated, truncated, info = self.envs.step(actions)
        obs = self._to_device(self._obs.read(batched))
        final_obs = obs
        if "final_obs" in info:
            final_obs = self._scatter(obs, info["final_obs"], terminated | truncated)
        return Transition(
            obs,
            self._tensor(reward.astype(np.float32)),
            self._tensor(terminated),
            self._tensor(truncated),
            final_obs,
        )

    def close(self) -> None:
        """Close the environments and their processes."""
        self.envs.close()

    def _scatter(self, obs: Tensors, finals: NDArray[Any], done: NDArray[np.bool_]) -> Tensors:
        """`obs`, but in the rows that are `done` the last observation of the ended episode."""
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
    """gymnasium's SyncVectorEnv in SAME_STEP mode, without what it spends on infos and copies.

    `info` holds `final_obs` alone, and only where an episode ended.
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
                # An environment may write its next observation into the same array.
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
    """Sends no infos through a pipe, and keeps a final observation from being written over."""

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
        # Ctrl-C is for the main process, which closes the others in good order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return Lean(env_fn())


def async_envs(env_fns: Sequence[EnvFn]) -> VectorEnv:
    """gymnasium's AsyncVectorEnv in SAME_STEP mode.

    Its processes come from a fork server: a fork of this process would copy torch's threads in
    whatever state they are. The server imports this module once, for all of them.
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
    """`num_envs` times the same environment, with the previous action observed if wished."""
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

    Raises `UsageError` where there is none of that `id` or it cannot be made so.
    """
    env_fn = registered(id, max_episode_steps, kwargs or {})
    return vectorize(env_fn, num_envs, vectorization, device, previous_action)


def registered(id: str, max_episode_steps: int | None, kwargs: dict[str, Any]) -> EnvFn:
    """What makes the environment that is registered as `id`; errors as of `make_gym`."""
    if max_episode_steps is not None and max_episode_steps < 1:
        raise UsageError(f"max_episode_steps must be at least 1, not {max_episode_steps}")
    spec = copy.deepcopy(_spec(id))
    for module in EXTRAS:
        if str(spec.entry_point).startswith(f"gymnasium.envs.{module}"):
            require(module, id)
    # GymVecEnv itself sees to it that reset comes before step.
    spec.order_enforce = False
    return partial(_make, spec, max_episode_steps, kwargs)


def require(module: str, what: str, extra: str | None = None) -> None:
    """A `UsageError` that says how to get `module`, by our extra, where it is not installed."""
    if importlib.util.find_spec(module) is None:
        raise UsageError(f"{what} needs {module}: pip install 'rlmem[{extra or module}]'")


def _spec(id: str) -> EnvSpec:
    module, _, name = id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)  # which registers its environments
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
