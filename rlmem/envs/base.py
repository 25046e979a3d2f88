"""The protocol of batched environments: N of them step together, tensors in and out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlmem.errors import UsageError
from rlmem.registry import Registry

# One entry per leaf of the space, by its path ("obs", "obs.0", "obs.position", ...), each [N, ...].
Tensors = dict[str, Tensor]
# The leaf spaces by the same paths: Box, Discrete, MultiDiscrete or MultiBinary.
Spaces = dict[str, gym.Space]


class Transition(NamedTuple):
    """The result of one step of N environments.

    If an episode ended, the same step resets its environment: `obs` is the first observation of the
    next episode, and `final_obs` the last one of the ended episode. Otherwise the two are equal,
    and may be the same tensor.

    `memory_reset` marks the rows of `obs` before which the memory is reset: the `start` of the next
    time step. It equals `done`, except in trials of several episodes.
    """

    obs: Tensors
    reward: Float[Tensor, "N"]
    terminated: Bool[Tensor, "N"]
    truncated: Bool[Tensor, "N"]
    final_obs: Tensors
    memory_reset: Bool[Tensor, "N"]

    @property
    def done(self) -> Bool[Tensor, "N"]:
        """The environments whose episode ended."""
        return self.terminated | self.truncated


@runtime_checkable
class VecEnv(Protocol):
    """N environments that step together; the step that ends an episode also starts the next one."""

    num_envs: int
    observation_space: Spaces
    action_space: Spaces
    device: torch.device

    def reset(self, seed: int | Sequence[int] | None = None) -> Tensors:
        """Start a new episode in every environment. An int seeds environment i with `seed + i`."""
        ...

    def step(self, action: Tensors) -> Transition:
        """Take one action in each environment; a ValueError names the space of an invalid one."""
        ...

    def close(self) -> None:
        """Free the resources of the environments (processes, windows)."""
        ...


class CannotContinue(UsageError):
    """The episodes of a saved state cannot go on here; the message is the reason, in a few words.

    After it, the object that should have loaded the state is unusable.
    """


@runtime_checkable
class Continuable(Protocol):
    """An environment whose present episodes can be saved and go on elsewhere."""

    def state_dict(self) -> dict[str, Any] | None:
        """Tensors and plain values of the present episodes; None if they cannot be saved."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on in the episodes of a `state_dict`, without a reset; may raise `CannotContinue`."""
        ...


@runtime_checkable
class Shareable(Continuable, Protocol):
    """Environments whose present episodes can be shared out over another number of ranks."""

    def reshard(self, states: Sequence[dict[str, Any]], first: int) -> dict[str, Any]:
        """The `state_dict` of these environments, whose episodes are those from number `first` on
        in the `states` of all ranks; may raise `CannotContinue`.
        """
        ...


def reshard(env: VecEnv, states: Sequence[dict[str, Any]], first: int) -> dict[str, Any]:
    """The state of `env`, with the episodes from number `first` on in the `state_of` of all ranks.

    Raises `CannotContinue` if that is impossible.
    """
    if not isinstance(env, Shareable):
        raise CannotContinue("it had other ranks, and its environments cannot be shared out anew")
    return env.reshard(states, first)


def state_of(env: VecEnv) -> dict[str, Any] | None:
    """The present episodes of `env`; None if they cannot be saved."""
    return env.state_dict() if isinstance(env, Continuable) else None


def load_state(env: VecEnv, state: dict[str, Any]) -> None:
    """Go on in the episodes of a `state_of`; raises `CannotContinue` if that is impossible."""
    if not isinstance(env, Continuable):
        raise CannotContinue("the environment is another one")
    env.load_state_dict(state)


@runtime_checkable
class DefinesSpaces(Protocol):
    """An environment with the spaces of one of its copies, nested as its author defined them."""

    single_observation_space: gym.Space
    single_action_space: gym.Space


def find_wrapped(env: VecEnv, kind: type) -> Any:
    """The outermost environment of class `kind`, `env` or one inside it; None if there is none."""
    inner: Any = env
    while inner is not None and not isinstance(inner, kind):
        inner = getattr(inner, "env", None)
    return inner


registry: Registry[VecEnv] = Registry("env", "rlmem.envs")
register = registry.register
