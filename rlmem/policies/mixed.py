"""Actions of any kind in two parts: one of `n` choices, and `k` numbers."""

from __future__ import annotations

import gymnasium as gym
import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlmem.policies.choices import MOST, Choices, finite

# What an actor calls the discrete part of an action.
CHOICE = "choice"


class Numbers(nn.Module):
    """The Box leaves of an action space as one vector [*N, k], in units of half their range.

    An unbounded leaf stays as it is. `log_unit` is the logarithm of the volume of one such unit.
    """

    middle: Tensor
    radius: Tensor

    def __init__(self, spaces: dict[str, gym.spaces.Box]) -> None:
        super().__init__()
        self.keys = list(spaces)
        middle, half = [], []
        for space in spaces.values():
            low, high = torch.as_tensor(space.low), torch.as_tensor(space.high)
            bounded = space.is_bounded("both")
            middle.append((low + high) / 2 if bounded else torch.zeros_like(low))
            half.append((high - low) / 2 if bounded else torch.ones_like(low))
        self.register_buffer("middle", torch.cat(middle), persistent=False)
        self.register_buffer("radius", torch.cat(half), persistent=False)
        self.size = len(self.radius)
        self.log_unit = self.radius.log().sum().item()

    def forward(self, action: dict[str, Tensor]) -> Float[Tensor, "*N k"]:
        return (torch.cat([action[key] for key in self.keys], dim=-1) - self.middle) / self.radius


class Mixed(nn.Module):
    """The two parts of an action space: `choices` and `numbers`, of which one may be None.

    `parts` are the spaces that an actor draws from: all discrete leaves as one space of the name
    `CHOICE`, and the Box leaves as they are. Without choices `n` is 1, without numbers `k` is 0.
    Raises `UsageError` where there are too many choices.
    """

    def __init__(self, action_space: dict[str, gym.Space]) -> None:
        super().__init__()
        boxes = {k: s for k, s in action_space.items() if isinstance(s, gym.spaces.Box)}
        counted = {k: s for k, s in action_space.items() if k not in boxes}
        self.keys = list(action_space)
        self.choices = Choices(counted) if counted else None
        self.numbers = Numbers(boxes) if boxes else None
        self.n = self.choices.n if self.choices else 1
        self.k = self.numbers.size if self.numbers else 0
        self.parts: dict[str, gym.Space] = {}
        if self.choices:
            self.parts[CHOICE] = gym.spaces.Discrete(self.n)
        self.parts |= boxes

    def action(self, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        """The action that was drawn from `parts`."""
        leaves = dict(drawn)
        if self.choices:
            leaves |= self.choices.action(leaves.pop(CHOICE))
        return {key: leaves[key] for key in self.keys}


def misfit(action_space: dict[str, gym.Space]) -> str | None:
    """What an action space lacks for a sum over its choices; None where it fits."""
    counted = {k: s for k, s in action_space.items() if not isinstance(s, gym.spaces.Box)}
    return None if finite(counted) else f"it needs at most {MOST} joint choices"
