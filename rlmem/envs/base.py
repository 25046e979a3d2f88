"""What an environment is to the rest of the library: N of them at once, tensors in and out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlmem.registry import Registry

# One entry per leaf of the space, by its path ("obs", "obs.0", "obs.position", ...), each [N, ...].
Tensors = dict[str, Tensor]
# The leaf spaces by the same paths: Box, Discrete, MultiDiscrete or MultiBinary.
Spaces = dict[str, gym.Space]


class Transition(NamedTuple):
    """What one step of N environments gives.

    Where an episode ended, `obs` is already the first observation of the next one (the same step
    resets it) and `final_obs` the last one of the ended episode; elsewhere the two are equal, and
    may be one and the same tensor.

    `start` says which of `obs` begin with an empty memory; None where an episode's end is also the
    memory's, as it is but for trials of several episodes.
    """

    obs: Tensors
    reward: Float[Tensor, "N"]
    terminated: Bool[Tensor, "N"]
    truncated: Bool[Tensor, "N"]
    final_obs: Tensors
    start: Bool[Tensor, "N"] | None = None

    @property
    def done(self) -> Bool[Tensor, "N"]:
        """Where an episode ended."""
        return self.terminated | self.truncated

    @property
    def starts(self) -> Bool[Tensor, "N"]:
        """The `start` of the next time step."""
        return self.done if self.start is None else self.start


@runtime_checkable
class VecEnv(Protocol):
    """N environments that step together; an ended one starts its next episode in the same step."""

    num_envs: int
    observation_space: Spaces
    action_space: Spaces
    device: torch.device

    def reset(self, seed: int | Sequence[int] | None = None) -> Tensors:
        """Start a new episode everywhere. An int seeds environment i with `seed + i`."""
        ...

    def step(self, action: Tensors) -> Transition:
        """Play one action each; a ValueError names the space that an action is not in."""
        ...

    def close(self) -> None:
        """Free what the environments hold (processes, windows)."""
        ...


def inside(env: VecEnv, kind: type) -> Any:
    """The environment of this class, `env` itself or one that it wraps; None if there is none."""
    inner: Any = env
    while inner is not None and not isinstance(inner, kind):
        inner = getattr(inner, "env", None)
    return inner


registry: Registry[VecEnv] = Registry("env", "rlmem.envs")
register = registry.register
