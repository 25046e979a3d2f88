"""Environments given in Python: classes and functions, or a batch that exists already."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from rlmem.envs.base import Tensors, Transition, VecEnv, load_state, registry, state_of
from rlmem.envs.gym_env import GymVecEnv, make_gym
from rlmem.envs.gym_ids import OBJECT, id_of
from rlmem.envs.gym_vector import GymnasiumVectorEnv
from rlmem.envs.vectorization import EnvFn
from rlmem.errors import UsageError


class Copies:
    """The environments that classes or functions make; several ones take turns.

    `id` names the only one (see `gym_ids.id_of`). `num_envs` and `vectorization` are set if they
    are known.
    """

    def __init__(
        self,
        env_fns: Sequence[EnvFn],
        num_envs: int | None = None,
        vectorization: str | None = None,
    ) -> None:
        self.env_fns = env_fns
        self.num_envs = num_envs
        self.vectorization = vectorization
        self.id = id_of(env_fns[0]) if len(env_fns) == 1 else OBJECT + f"{len(env_fns)} functions"

    def make(self, num_envs: int, device: torch.device, options: dict[str, Any]) -> VecEnv:
        """`num_envs` environments; `options` are those of the environment `gym`."""
        return make_gym(num_envs, **(options | {"id": self.env_fns, "device": device}))


class Batch:
    """A batch of environments that exists already; its owner closes it."""

    vectorization = None

    def __init__(self, env: VecEnv | VectorEnv) -> None:
        self.env = env
        self.num_envs = env.num_envs
        # A VectorEnv has arrays, which can become tensors on any device.
        self.device = None if isinstance(env, VectorEnv) else env.device
        self.id = OBJECT + type(env).__qualname__

    def make(self, num_envs: int, device: torch.device, options: dict[str, Any]) -> VecEnv:
        """The first `num_envs` environments of the batch; a `UsageError` if it has fewer."""
        if given := options.keys() - {"id"}:
            raise UsageError(
                f"env.{min(given)}: options go with a name, class or function, not with a batch "
                "of environments"
            )
        if num_envs > self.num_envs:
            raise UsageError(f"the batch has {self.num_envs} environments, not {num_envs}")
        env = self.env
        made: VecEnv = GymVecEnv(env, device=device) if isinstance(env, VectorEnv) else env
        if made.device != device:
            raise UsageError(f"the batch is on {made.device}: give device={str(made.device)!r}")
        return FirstRows(made, num_envs)


Given = Copies | Batch


def given(env: Any) -> Given:
    """An environment given in Python; raises `UsageError` for another kind of object.

    `env` is a class or function that makes a Gymnasium environment, a `VectorEnv` of Gymnasium or a
    `VecEnv`. The environments of a SyncVectorEnv or AsyncVectorEnv are made again, from its
    functions.
    """
    make: Any = env
    if inspect.isclass(env) or inspect.isroutine(env):
        return Copies([make])
    if isinstance(env, GymnasiumVectorEnv):
        return Batch(env.env)
    if type(env) in (SyncVectorEnv, AsyncVectorEnv):
        kind = "sync" if isinstance(env, SyncVectorEnv) else "async"
        fns = list(env.env_fns)
        return Copies(fns[:1] if all(f is fns[0] for f in fns) else fns, env.num_envs, kind)
    if isinstance(env, VectorEnv):
        return Batch(env)
    if isinstance(env, gym.Env):
        raise UsageError(
            f"env is one {type(env).__name__}, and training needs copies of it: give its class, or "
            f"a function (env=lambda: {type(env.unwrapped).__name__}(...))"
        )
    if isinstance(env, VecEnv) and isinstance(env.observation_space, dict):
        return Batch(env)
    if callable(env):
        return Copies([make])
    raise UsageError(
        f"env must be a name, a class or function that makes a Gymnasium environment, a VectorEnv "
        f"or a VecEnv, not {type(env).__name__}"
    )


def named(env: str) -> tuple[str, dict[str, str]]:
    """The registered name of an environment given as text, and its options.

    Besides names, `env` may be an id of Gymnasium, `module:NAME` or `file.py:NAME`.
    """
    if env not in registry.names() and (":" in env or env in gym.registry):
        return "gym", {"id": env}
    return env, {}


class FirstRows:
    """The first `num_envs` environments of `env`, which the owner of `env` closes.

    The others get the action of the first one.
    """

    def __init__(self, env: VecEnv, num_envs: int) -> None:
        self.env = env
        self.num_envs = num_envs
        self.device = env.device
        self.observation_space = env.observation_space
        self.action_space = env.action_space

    def reset(self, seed: int | Sequence[int] | None = None) -> Tensors:
        """Start a new episode in every environment. An int seeds environment i with `seed + i`."""
        if seed is not None:
            seeds = list(range(seed, seed + self.num_envs)) if isinstance(seed, int) else list(seed)
            seed = seeds + seeds[:1] * (self.env.num_envs - self.num_envs)
        return self._rows(self.env.reset(seed))

    def step(self, action: Tensors) -> Transition:
        """Take one action in each environment; a ValueError names the space of an invalid one."""
        missing = self.env.num_envs - self.num_envs
        if not missing:
            return self.env.step(action)
        full = {
            key: torch.cat([leaf, leaf[:1].expand(missing, *leaf.shape[1:])])
            for key, leaf in action.items()
        }
        step, n = self.env.step(full), self.num_envs
        return Transition(
            self._rows(step.obs),
            step.reward[:n],
            step.terminated[:n],
            step.truncated[:n],
            self._rows(step.final_obs),
            step.memory_reset[:n],
        )

    def close(self) -> None:
        """Does nothing: the environments belong to the caller."""

    def state_dict(self) -> dict[str, Any] | None:
        """The present episodes; None if those of `env` cannot be saved."""
        return state_of(self.env)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on in the episodes of a `state_dict`; raises the errors of `env`."""
        load_state(self.env, state)

    def _rows(self, leaves: Tensors) -> Tensors:
        if self.env.num_envs == self.num_envs:
            return leaves
        return {key: leaf[: self.num_envs] for key, leaf in leaves.items()}
