"""Action spaces as numbered joint discrete actions, continuous vectors, or both (hybrid)."""

from __future__ import annotations

import math

import gymnasium as gym
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rlmem.errors import UsageError
from rlmem.policies.continuous import box_bounds, box_units
from rlmem.policies.encoders import categories, first_values, flat
from rlmem.policies.reshaped import unflat

# The actor's key for the joint discrete part of an action.
DISCRETE = "discrete"
# A network has one output per joint action; beyond this a factored policy (algo=ppo) is better.
MAX_JOINT_ACTIONS = 4096


def enumerable(action_space: dict[str, gym.Space]) -> bool:
    """Whether all leaves are discrete, with at most `MAX_JOINT_ACTIONS` joint actions."""
    if any(isinstance(space, gym.spaces.Box) for space in action_space.values()):
        return False
    sizes = (n for space in action_space.values() for n in categories(space))
    return math.prod(sizes) <= MAX_JOINT_ACTIONS


class JointDiscrete:
    """The `n` joint actions of all leaves of a discrete action space, numbered from 0.

    Raises `UsageError` if a leaf is continuous or there are too many joint actions.
    """

    def __init__(self, action_space: dict[str, gym.Space]) -> None:
        if not enumerable(action_space):
            raise UsageError(
                f"action space {', '.join(map(str, action_space.values()))} is not supported: "
                f"only discrete spaces with at most {MAX_JOINT_ACTIONS} joint actions are"
            )
        self.sizes = {key: categories(space) for key, space in action_space.items()}
        self.starts = {key: first_values(space) for key, space in action_space.items()}
        self.shapes = {key: tuple(space.shape or ()) for key, space in action_space.items()}
        self.n = math.prod(size for sizes in self.sizes.values() for size in sizes)

    def index(self, action: dict[str, Tensor]) -> Int[Tensor, "*N"]:
        """The number of each action; the last entry of the last leaf varies fastest."""
        number: Tensor | int = 0
        for key, sizes in self.sizes.items():
            leaf, shape = action[key].long(), self.shapes[key]
            entries = flat(leaf, len(shape)).unbind(-1) if shape else [leaf]
            for entry, size, first in zip(entries, sizes, self.starts[key], strict=True):
                number = number * size + (entry - first if first else entry)
        assert isinstance(number, Tensor)
        return number

    def action(self, index: Int[Tensor, "*N"]) -> dict[str, Tensor]:
        """The actions with these numbers; int64."""
        entries: dict[str, Tensor] = {}
        for key, sizes in reversed(self.sizes.items()):
            digits = []
            for size, first in zip(reversed(sizes), reversed(self.starts[key]), strict=True):
                digits.append(index % size + first if first else index % size)
                index = index // size
            digits.reverse()
            shape = self.shapes[key]
            entries[key] = unflat(torch.stack(digits, dim=-1), shape) if shape else digits[0]
        return {key: entries[key] for key in self.sizes}

    def explore(self, index: Int[Tensor, "*N"], epsilon: Float[Tensor, "*M"]) -> Int[Tensor, "*N"]:
        """Replaces each index by a uniformly random one with probability `epsilon`.

        `epsilon` is a scalar or has one entry for each index.
        """
        chance = torch.rand(index.shape, device=index.device)
        return torch.where(chance < epsilon, torch.randint_like(index, self.n), index)


class Continuous(nn.Module):
    """The Box leaves of an action space as one vector [*N, k], scaled from their bounds to [-1, 1].

    Entries without two bounds are not scaled; see `box_units`. `log_unit_volume` is the logarithm
    of the product of all units, `free` the number of entries that are not constant.
    """

    center: Tensor
    half_range: Tensor

    def __init__(self, spaces: dict[str, gym.spaces.Box]) -> None:
        super().__init__()
        self.keys = list(spaces)
        self.dims = {key: len(space.shape) for key, space in spaces.items()}
        low, high = map(torch.cat, zip(*map(box_bounds, spaces.values()), strict=True))
        center, half_range = box_units(low, high)
        self.register_buffer("center", center, persistent=False)
        self.register_buffer("half_range", half_range, persistent=False)
        self.size = len(half_range)
        self.free = int((low != high).sum())
        self.log_unit_volume = half_range.log().sum().item()

    def forward(self, action: dict[str, Tensor]) -> Float[Tensor, "*N k"]:
        leaves = torch.cat([flat(action[key], dims) for key, dims in self.dims.items()], dim=-1)
        return (leaves - self.center) / self.half_range


class HybridActions(nn.Module):
    """The `discrete` and `continuous` parts of an action space; one of them may be None.

    `actor_spaces` are the leaves for an `Actor`: one Discrete space `DISCRETE` for the whole
    discrete part, and each Box leaf. `n` is the number of joint discrete actions (1 without a
    discrete part), `k` the size of the continuous vector (0 without a continuous part), `free` the
    number of its entries that are not constant. Raises `UsageError` if there are too many joint
    discrete actions.
    """

    def __init__(self, action_space: dict[str, gym.Space]) -> None:
        super().__init__()
        boxes = {k: s for k, s in action_space.items() if isinstance(s, gym.spaces.Box)}
        discrete = {k: s for k, s in action_space.items() if k not in boxes}
        self.keys = list(action_space)
        self.discrete = JointDiscrete(discrete) if discrete else None
        self.continuous = Continuous(boxes) if boxes else None
        self.n = self.discrete.n if self.discrete else 1
        self.k = self.continuous.size if self.continuous else 0
        self.free = self.continuous.free if self.continuous else 0
        self.actor_spaces: dict[str, gym.Space] = {}
        if self.discrete:
            self.actor_spaces[DISCRETE] = gym.spaces.Discrete(self.n)
        self.actor_spaces |= boxes

    def action(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        """The environment's action for a sample from an actor over `actor_spaces`."""
        leaves = dict(sample)
        if self.discrete:
            leaves |= self.discrete.action(leaves.pop(DISCRETE))
        return {key: leaves[key] for key in self.keys}


def discrete_unsupported_reason(action_space: dict[str, gym.Space]) -> str | None:
    """Why one value per joint action is impossible for an action space; None if it is possible."""
    if enumerable(action_space):
        return None
    return f"it needs discrete actions, at most {MAX_JOINT_ACTIONS} joint ones"


def hybrid_unsupported_reason(action_space: dict[str, gym.Space]) -> str | None:
    """Why a sum over joint discrete actions is impossible for a space; None if it is possible."""
    discrete = {k: s for k, s in action_space.items() if not isinstance(s, gym.spaces.Box)}
    if enumerable(discrete):
        return None
    return f"it needs at most {MAX_JOINT_ACTIONS} joint discrete actions"
