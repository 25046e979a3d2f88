"""Hidden state in the infos of Gymnasium environments, moved beside the observations.

As with masks (`rlmem.envs.info_mask`), an environment may give `info["privileged"]` at each reset
and step: an array or number, or a dict or tuple of them. The wrapper `InfoPrivileged` puts it
beside the observation, and its leaves are `privileged` or `privileged.KEY`. Policies show them to
critics only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Space, Tuple

from rlmem.envs.info_mask import zeros
from rlmem.envs.privileged import PRIVILEGED
from rlmem.envs.vectorization import EnvFn
from rlmem.errors import UsageError

OBSERVATION = "obs"


class InfoPrivileged(gym.Wrapper):
    """Puts `info["privileged"]`, of the space `hidden`, beside the observations.

    Where an episode has terminated, it may be missing: no critic looks there. Elsewhere that is a
    `UsageError`.
    """

    def __init__(self, env: gym.Env, hidden: Space) -> None:
        super().__init__(env)
        self.hidden = hidden
        self.observation_space = beside(env.observation_space, hidden)

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(**options)
        return self._joined(obs, info, False), info

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        joined = self._joined(obs, info, bool(np.any(terminated)))
        return joined, reward, terminated, truncated, info

    def _joined(self, obs: Any, info: Mapping[str, Any], terminated: bool) -> Any:
        state = info.get(PRIVILEGED)
        if state is None and not terminated:
            raise UsageError(f"info has no {PRIVILEGED!r} here, and had one at the first reset")
        hidden = zeros(self.hidden) if state is None else _numbers(PRIVILEGED, state)
        return {OBSERVATION: obs, PRIVILEGED: hidden}


def beside(space: Space, hidden: Space) -> Dict:
    """The space of observations with a hidden state beside them."""
    return Dict({OBSERVATION: space, PRIVILEGED: hidden})


def add_privileged(env_fns: Sequence[EnvFn], hidden: Space) -> list[EnvFn]:
    """Factories of the same environments with `InfoPrivileged`."""
    return [partial(_with_state, env_fn, hidden) for env_fn in env_fns]


def _with_state(env_fn: EnvFn, hidden: Space) -> gym.Env:
    return InfoPrivileged(env_fn(), hidden)


def privileged_space(state: Any, name: str = PRIVILEGED) -> Space:
    """The space of hidden states like this one: numbers without bounds, or a dict or tuple of them.

    Raises `UsageError` for anything else.
    """
    if isinstance(state, Mapping | tuple) and not state:
        raise _refusal(name, state)
    if isinstance(state, Mapping):
        return Dict({key: privileged_space(part, f"{name}.{key}") for key, part in state.items()})
    if isinstance(state, tuple):
        return Tuple([privileged_space(part, f"{name}.{i}") for i, part in enumerate(state)])
    return Box(-np.inf, np.inf, np.shape(_numbers(name, state)), np.float32)


def _numbers(name: str, state: Any) -> Any:
    """The hidden state with all its numbers as float32."""
    if isinstance(state, Mapping):
        return {key: _numbers(f"{name}.{key}", part) for key, part in state.items()}
    if isinstance(state, tuple):
        return tuple(_numbers(f"{name}.{i}", part) for i, part in enumerate(state))
    try:
        return np.asarray(state, np.float32)
    except (TypeError, ValueError):
        raise _refusal(name, state) from None


def _refusal(name: str, state: Any) -> UsageError:
    given = type(state).__name__
    return UsageError(
        f"info[{PRIVILEGED!r}] must be numbers, or a dict or tuple of them, and {name} is {given} "
        "(env.info_privileged=false does not read it)"
    )
