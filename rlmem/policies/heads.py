"""Heads on top of the memory: a distribution for every leaf of the action space, and values."""

from __future__ import annotations

from abc import ABC, abstractmethod

import gymnasium as gym
import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlmem.errors import UsageError
from rlmem.policies.distributions import (
    Categorical,
    Distribution,
    Joint,
    MultiCategorical,
    Normal,
    TanhNormal,
)
from rlmem.policies.encoders import categories, mlp

# Of the logarithm of a deviation that depends on the state (Haarnoja et al. 2018, their code).
LOG_STD_RANGE = (-20.0, 2.0)


class Leaf(nn.Module, ABC):
    """The distribution over one leaf of the action space, from `size` numbers."""

    size: int

    @abstractmethod
    def forward(self, x: Float[Tensor, "*N size"]) -> Distribution:
        """A batch of distributions."""


class DiscreteLeaf(Leaf):
    """Discrete, MultiDiscrete and MultiBinary: logits for every value of every entry."""

    def __init__(self, space: gym.Space) -> None:
        super().__init__()
        self.sizes = categories(space)
        self.size = sum(self.sizes)
        self.single = isinstance(space, gym.spaces.Discrete)

    def forward(self, x: Float[Tensor, "*N size"]) -> Distribution:
        return Categorical(x) if self.single else MultiCategorical(x, self.sizes)


class BoxLeaf(Leaf):
    """Box: a Gaussian with a learned deviation, which depends on the state where `state_std`.

    Squashed into the bounds where there are bounds on both sides of every entry.
    """

    low: Tensor
    high: Tensor

    def __init__(self, space: gym.spaces.Box, state_std: bool = False) -> None:
        super().__init__()
        if len(space.shape) != 1:
            raise UsageError(f"action space {space} is not supported: only vectors are")
        self.size = space.shape[0]
        self.bounded = space.is_bounded("both")
        if not self.bounded and (space.bounded_below.any() or space.bounded_above.any()):
            raise UsageError(
                f"action space {space} is not supported: bounds are on both sides or nowhere"
            )
        self.register_buffer("low", torch.as_tensor(space.low), persistent=False)
        self.register_buffer("high", torch.as_tensor(space.high), persistent=False)
        self.log_std = None if state_std else nn.Parameter(torch.full((self.size,), -0.5))
        if state_std:
            self.size *= 2

    def forward(self, x: Float[Tensor, "*N size"]) -> Distribution:
        if self.log_std is None:
            mean, log_std = x.chunk(2, dim=-1)
            log_std = log_std.clamp(*LOG_STD_RANGE)
        else:
            mean, log_std = x, self.log_std.expand_as(x)
        if self.bounded:
            return TanhNormal(mean, log_std, self.low, self.high)
        return Normal(mean, log_std)


def leaf(space: gym.Space, state_std: bool = False) -> Leaf:
    """The head for one leaf space; a `UsageError` names a space that has none."""
    if isinstance(space, gym.spaces.Box):
        return BoxLeaf(space, state_std)
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete | gym.spaces.MultiBinary):
        return DiscreteLeaf(space)
    raise UsageError(
        f"action space {space} is not supported (supported: Discrete, MultiDiscrete, MultiBinary, "
        "Box, and Tuple and Dict of them)"
    )


class Actor(nn.Module):
    """Features [*N, H] to a joint distribution over all leaves of the action space.

    `state_std` says whether the deviations of numbers depend on the features. With `copies`, there
    are that many distributions for each: a batch [*N, copies].
    """

    def __init__(
        self,
        spaces: dict[str, gym.Space],
        input_size: int,
        layers: int,
        activation: str,
        state_std: bool = False,
        copies: int | None = None,
    ) -> None:
        super().__init__()
        self.keys = list(spaces)
        self.leaves = nn.ModuleList(leaf(spaces[key], state_std) for key in self.keys)
        self.sizes = [part.size for part in self._leaves()]
        self.mlp = mlp([input_size] * (layers + 1), activation)
        self.copies = copies
        self.out = linear(input_size, sum(self.sizes) * (copies or 1), gain=0.01)

    def forward(self, x: Float[Tensor, "*N H"]) -> Joint:
        numbers = self.out(self.mlp(x)).float()
        if self.copies is not None:
            numbers = numbers.unflatten(-1, (self.copies, -1))
        parts = numbers.split(self.sizes, dim=-1)
        heads = zip(self.keys, self._leaves(), parts, strict=True)
        return Joint({key: head(part) for key, head, part in heads})

    def _leaves(self) -> list[Leaf]:
        return list(self.leaves)  # type: ignore[arg-type]


class Critic(nn.Module):
    """Features [*N, H] to one value [*N]."""

    def __init__(self, input_size: int, layers: int, activation: str) -> None:
        super().__init__()
        self.mlp = mlp([input_size] * (layers + 1), activation)
        self.out = linear(input_size, 1, gain=1.0)

    def forward(self, x: Float[Tensor, "*N H"]) -> Float[Tensor, "*N"]:
        return self.out(self.mlp(x)).float().squeeze(-1)


def linear(input_size: int, output_size: int, gain: float) -> nn.Linear:
    """The last layer of a head: orthogonal; a small gain makes the first policy nearly uniform."""
    layer = nn.Linear(input_size, output_size)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
