"""Finite action spaces as one list of choices, for agents that give every action a number."""

from __future__ import annotations

import math

import gymnasium as gym
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlmem.errors import UsageError
from rlmem.policies.encoders import categories

# One output of a network for each: above this a factored policy (algo=ppo) is the better choice.
MOST = 4096


def finite(action_space: dict[str, gym.Space]) -> bool:
    """Whether all actions can be counted, and there are at most `MOST`."""
    if any(isinstance(space, gym.spaces.Box) for space in action_space.values()):
        return False
    return math.prod(n for space in action_space.values() for n in categories(space)) <= MOST


class Choices:
    """The `n` joint actions of all leaves of a finite action space, numbered from 0.

    Raises `UsageError` where there are infinitely or too many.
    """

    def __init__(self, action_space: dict[str, gym.Space]) -> None:
        if not finite(action_space):
            raise UsageError(
                f"action space {', '.join(map(str, action_space.values()))} has no list of "
                f"actions: only discrete spaces with at most {MOST} joint actions have"
            )
        self.sizes = {key: categories(space) for key, space in action_space.items()}
        self.single = {
            key: isinstance(space, gym.spaces.Discrete) for key, space in action_space.items()
        }
        self.n = math.prod(size for sizes in self.sizes.values() for size in sizes)

    def index(self, action: dict[str, Tensor]) -> Int[Tensor, "*N"]:
        """The number of each action: the last entry of the last leaf counts fastest."""
        number: Tensor | int = 0
        for key, sizes in self.sizes.items():
            leaf = action[key].long()
            entries = [leaf] if self.single[key] else leaf.unbind(-1)
            for entry, size in zip(entries, sizes, strict=True):
                number = number * size + entry
        assert isinstance(number, Tensor)
        return number

    def action(self, index: Int[Tensor, "*N"]) -> dict[str, Tensor]:
        """The actions with these numbers; int64."""
        entries: dict[str, Tensor] = {}
        for key, sizes in reversed(self.sizes.items()):
            digits = []
            for size in reversed(sizes):
                digits.append(index % size)
                index = index // size
            digits.reverse()
            entries[key] = digits[0] if self.single[key] else torch.stack(digits, dim=-1)
        return {key: entries[key] for key in self.sizes}

    def explore(self, index: Int[Tensor, "*N"], epsilon: Float[Tensor, "*M"]) -> Int[Tensor, "*N"]:
        """With probability `epsilon` (a scalar, or one for each) any choice instead."""
        chance = torch.rand(index.shape, device=index.device)
        return torch.where(chance < epsilon, torch.randint_like(index, self.n), index)
