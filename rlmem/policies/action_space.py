"""Action spaces as numbered joint discrete actions, continuous vectors, or both (hybrid)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import gymnasium as gym
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlmem.errors import UsageError
from rlmem.policies.continuous import box_bounds, box_units
from rlmem.policies.encoders import flat
from rlmem.policies.reshaped import unflat
from rlmem.spaces.action_mask import Legal
from rlmem.spaces.discrete import categories, first_values

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


def combine(entries: Iterable[Tensor], sizes: Sequence[int]) -> Int[Tensor, "*N"]:
    """The number of a combination of entries, counted from 0; the last entry varies fastest."""
    number: Tensor | int = 0
    for entry, size in zip(entries, sizes, strict=True):
        number = number * size + entry
    assert isinstance(number, Tensor)
    return number


def separate(number: Int[Tensor, "*N"], sizes: Sequence[int]) -> list[Int[Tensor, "*N"]]:
    """The entries of the combination with this number: the inverse of `combine`."""
    entries = []
    for size in reversed(sizes):
        entries.append(number % size)
        number = number // size
    return entries[::-1]


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
        self.all_sizes = [size for sizes in self.sizes.values() for size in sizes]
        self.n = math.prod(self.all_sizes)

    def index(self, action: dict[str, Tensor]) -> Int[Tensor, "*N"]:
        """The number of each action; the last entry of the last leaf varies fastest."""
        found: list[Tensor] = []
        for key, starts in self.starts.items():
            leaf, shape = action[key].long(), self.shapes[key]
            entries = flat(leaf, len(shape)).unbind(-1) if shape else [leaf]
            pairs = zip(entries, starts, strict=True)
            found += [entry - first if first else entry for entry, first in pairs]
        return combine(found, self.all_sizes)

    def action(self, index: Int[Tensor, "*N"]) -> dict[str, Tensor]:
        """The actions with these numbers; int64."""
        every, action = iter(separate(index, self.all_sizes)), {}
        for key, starts in self.starts.items():
            entries = [next(every) + first if first else next(every) for first in starts]
            shape = self.shapes[key]
            action[key] = unflat(torch.stack(entries, dim=-1), shape) if shape else entries[0]
        return action

    def legal(self, leaves: dict[str, Legal]) -> Bool[Tensor, "*N n"]:
        """The legal joint actions, from those of the masked leaves (at least one)."""
        device = next(iter(leaves.values())).mask.device
        found: Tensor | None = None
        for key, sizes in self.sizes.items():
            legal = leaves.get(key)
            if legal is None:
                parts = [torch.ones(math.prod(sizes), dtype=torch.bool, device=device)]
            else:
                parts = [legal.mask] if legal.joint else list(legal.mask.split(sizes, dim=-1))
            for part in parts:
                both = part if found is None else found.unsqueeze(-1) & part.unsqueeze(-2)
                found = both if found is None else both.flatten(-2)
        assert found is not None
        return found

    def explore(
        self,
        index: Int[Tensor, "*N"],
        epsilon: Float[Tensor, "*M"],
        legal: Bool[Tensor, "*N n"] | None = None,
    ) -> Int[Tensor, "*N"]:
        """Replaces each index by a uniformly random (legal) one with probability `epsilon`.

        `epsilon` is a scalar or has one entry for each index.
        """
        chance = torch.rand(index.shape, device=index.device)
        if legal is None:
            drawn = torch.randint_like(index, self.n)
        else:
            drawn = torch.rand_like(legal, dtype=torch.float32).masked_fill(~legal, -1).argmax(-1)
        return torch.where(chance < epsilon, drawn, index)


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

    def legal(self, leaves: dict[str, Legal]) -> dict[str, Legal]:
        """The legal actions of `actor_spaces`, from those of the (masked) action space."""
        assert self.discrete is not None
        return {DISCRETE: Legal(self.discrete.legal(leaves), False)}

    def action(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        """The environment's action for a sample from an actor over `actor_spaces`."""
        leaves = dict(sample)
        if self.discrete:
            leaves |= self.discrete.action(leaves.pop(DISCRETE))
        return {key: leaves[key] for key in self.keys}

    def parts(self, action: dict[str, Tensor]) -> dict[str, Tensor]:
        """The leaves of `actor_spaces` for an environment's action: the inverse of `action`."""
        discrete = {DISCRETE: self.discrete.index(action)} if self.discrete else {}
        return {**action, **discrete}


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
