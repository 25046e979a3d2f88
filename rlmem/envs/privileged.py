"""Observations with the hidden state, for a critic that may read more than the agent.

An environment class offers its state with two methods, `hidden_space` and `observe_hidden`. The
leaves have the names `privileged` or `privileged.KEY`. Policies show them to critics only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import gymnasium as gym

from rlmem.envs.base import Tensors, VecEnv, register
from rlmem.envs.observation_check import ObservationCheck
from rlmem.envs.spaces import FlatSpace
from rlmem.envs.tensor_env import TensorEnv
from rlmem.options import declared_types
from rlmem.registry import options_of

PRIVILEGED = "privileged"


@runtime_checkable
class OffersState(Protocol):
    """An environment on tensors that can show its hidden state."""

    def hidden_space(self) -> gym.Space:
        """The space of the hidden state of one environment."""
        ...

    def observe_hidden(self, *state: Any) -> Tensors:
        """Its leaves for the arguments of `observe`; tensors that are never written to later."""
        ...


class _WithState(TensorEnv):
    """Adds the hidden state to the observations of the class behind it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        assert isinstance(self, OffersState)
        hidden = FlatSpace(PRIVILEGED, self.hidden_space())
        self.observation_space = {**self.observation_space, **hidden.spaces}
        if check := self._obs_check:
            leaves = [*check.leaves, *hidden.leaves]
            self._obs_check = ObservationCheck(leaves, self.num_envs, check.values, check.mask)

    def observe(self, *state: Any) -> Tensors:
        """The observations and the hidden state."""
        behind: Any = super()
        hidden: Any = self
        return {**behind.observe(*state), **hidden.observe_hidden(*state)}


def with_state(kind: Any) -> Any:
    """The class `kind` of environments on tensors, with the hidden state in its observations."""
    return type(kind.__name__, (_WithState, kind), {})


Env = TypeVar("Env", bound=type[TensorEnv])


def register_with_state(name: str) -> Callable[[Env], Env]:
    """Decorator that registers a class of environments, with one more option: `privileged`."""

    def put(kind: Env) -> Env:
        def make(privileged: bool = False, **options: Any) -> VecEnv:
            return (with_state(kind) if privileged else kind)(**options)

        # The check of options reads their types.
        make.__annotations__ |= declared_types(kind)
        register(name, options={**options_of(kind), "privileged": False})(make)
        return kind

    return put


class OptionalParts:
    """Reads single observations of a space; parts whose leaves are all in `leaves` may be missing.

    Only parts of a Dict can be.
    """

    def __init__(self, space: FlatSpace, leaves: Collection[str]) -> None:
        self.space = space
        self.leaves = {leaf for leaf in space.spaces if leaf in leaves}
        self.sample = space.source.sample() if self.leaves else None

    def stack(self, raw: Any) -> Tensors:
        """The leaves [1, ...] of an observation, without the missing ones."""
        if not self.leaves:
            return self.space.stack([raw])
        missing: set[str] = set()
        filled = self._fill(self.space.root, self.space.source, raw, self.sample, missing)
        leaves = self.space.stack([filled])
        return {key: leaf for key, leaf in leaves.items() if key not in missing}

    def _fill(self, name: str, space: gym.Space, raw: Any, sample: Any, missing: set[str]) -> Any:
        """`raw`, with the parts of `sample` for those that are missing and may be."""
        if not isinstance(space, gym.spaces.Dict) or not isinstance(raw, Mapping):
            return raw
        filled = dict(raw)
        for key, part in space.items():
            path = f"{name}.{key}"
            if key in raw:
                filled[key] = self._fill(path, part, raw[key], sample[key], missing)
                continue
            under = {leaf for leaf in self.space.spaces if f"{leaf}.".startswith(f"{path}.")}
            if not under <= self.leaves:
                return raw  # the error names the parts that were given
            missing |= under
            filled[key] = sample[key]
        return filled
