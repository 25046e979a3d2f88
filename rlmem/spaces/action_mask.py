"""Action masks: the legal values of discrete actions, found in the observations by name.

A leaf named `action_mask` (the convention of PettingZoo and OpenSpiel), such as `obs.action_mask`,
marks legal values with anything but 0. For an action of entries with n1, n2, .. values it has

- one place for each value of each entry, n1 + n2 + .. in all: legal are all combinations of legal
  values. A Tuple of one mask for each entry is the same;
- or, with several entries, one place for each combination: shape [n1, n2, ..], or flat. A flat mask
  that fits both forms (two entries of two values) is of the first form.

In a nested action space one mask has the values of all discrete leaves, in their order, or a leaf
has its own mask at the same path: `obs.action_mask.move` for `action.move`. Leaves without one are
not masked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import gymnasium as gym
from jaxtyping import Bool
from torch import Tensor, cat

from rlmem.errors import UsageError
from rlmem.spaces.discrete import categories

NAME = "action_mask"
DISCRETE = gym.spaces.Discrete | gym.spaces.MultiDiscrete | gym.spaces.MultiBinary

Spaces = Mapping[str, gym.Space]
Sizes = tuple[int, ...]


class Legal(NamedTuple):
    """The legal actions of one leaf: values of each entry [*N, n1 + n2 + ..], one entry after the
    other, or combinations [*N, n1 * n2 * ..] if `joint`, the last entry fastest.
    """

    mask: Bool[Tensor, "*N n"]
    joint: bool


class Source(NamedTuple):
    """The places `first` .. `first + size - 1` of a mask of `shape` (flattened)."""

    key: str
    shape: tuple[int, ...]
    first: int
    size: int


class LeafMask(NamedTuple):
    """The mask of one leaf of the action space, whose entries have `sizes` values."""

    sources: tuple[Source, ...]
    sizes: Sizes
    joint: bool


class ActionMask:
    """Reads the legal actions from observations; `leaves` are the masked leaves of the actions."""

    def __init__(self, leaves: Mapping[str, LeafMask]) -> None:
        self.leaves = dict(leaves)
        sources = [source for leaf in leaves.values() for source in leaf.sources]
        self.keys = tuple(dict.fromkeys(source.key for source in sources))

    @classmethod
    def find(cls, observation_space: Spaces, action_space: Spaces) -> ActionMask | None:
        """The mask in these observations; None without one, or without discrete actions.

        Raises `UsageError` for a mask that does not fit the actions, and for two masks.
        """
        found: dict[str, dict[str, str]] = {}
        for key in observation_space:
            path = key.split(".")
            if NAME in path:
                at = path.index(NAME) + 1
                found.setdefault(".".join(path[:at]), {})[".".join(path[at:])] = key
        sizes = {
            key: tuple(categories(space))
            for key, space in action_space.items()
            if isinstance(space, DISCRETE)
        }
        if not found or not sizes:
            return None
        if len(found) > 1:
            raise UsageError(f"the observations have {len(found)} action masks: {', '.join(found)}")
        ((root, masks),) = found.items()
        if list(masks) == [""]:
            return cls(_of_all(root, observation_space[root], sizes))
        shapes = {path: observation_space[key] for path, key in masks.items()}
        return cls(_by_path(root, masks, shapes, sizes))

    def __call__(self, obs: Mapping[str, Tensor]) -> dict[str, Legal]:
        """The legal actions of each masked leaf; ValueError if an observation has another shape.

        All actions count as legal where none is: after the end of an episode.
        """
        return {key: Legal(_open(_read(leaf, obs), leaf), leaf.joint) for key, leaf in self.items()}

    def none_legal(self, obs: Mapping[str, Tensor]) -> Bool[Tensor, "*N"]:
        """The observations without a legal action."""
        none: Tensor | None = None
        for _, leaf in self.items():
            for part in _parts(_read(leaf, obs), leaf):
                empty = ~part.any(dim=-1)
                none = empty if none is None else none | empty
        assert none is not None
        return none

    def items(self) -> list[tuple[str, LeafMask]]:
        """The masked leaves of the actions, with their masks."""
        return list(self.leaves.items())

    def others(self, observation_space: Spaces) -> dict[str, gym.Space]:
        """The leaves of the observations that are no mask; a `UsageError` if there are none."""
        others = {k: space for k, space in observation_space.items() if k not in self.keys}
        if not others:
            raise UsageError(
                f"the observations are only a mask ({', '.join(self.keys)}); "
                "policy.action_mask=false reads it as an ordinary observation"
            )
        return others

    def describe(self) -> dict[str, str]:
        """What each mask is: one line of text for each."""
        text = {}
        for key in self.keys:
            masked = [
                f"{leaf.sources[0].size} combinations of {name}"
                if leaf.joint
                else f"{sum(s.size for s in leaf.sources if s.key == key)} values of {name}"
                for name, leaf in self.items()
                if any(source.key == key for source in leaf.sources)
            ]
            text[key] = f"mask of {' and '.join(masked)} → legal actions, not an input"
        return text


def _of_all(key: str, space: gym.Space, sizes: Mapping[str, Sizes]) -> dict[str, LeafMask]:
    """One mask for all these leaves of the actions."""
    shape = tuple(space.shape or ())
    count, every = math.prod(shape), [n for each in sizes.values() for n in each]
    only = next(iter(sizes.values())) if len(sizes) == 1 else ()
    if len(only) > 1 and (shape == only or (count == math.prod(only) != sum(only))):
        return {name: LeafMask((Source(key, shape, 0, count),), only, True) for name in sizes}
    if count != sum(every):
        joint = f", or {math.prod(only)}, one for each combination" if len(only) > 1 else ""
        raise UsageError(
            f"{key} has {count} entries, and a mask of {', '.join(sizes)} has {sum(every)}, one "
            f"for each value{joint} (policy.action_mask=false reads it as an ordinary observation)"
        )
    leaves, first = {}, 0
    for name, each in sizes.items():
        leaves[name] = LeafMask((Source(key, shape, first, sum(each)),), each, False)
        first += sum(each)
    return leaves


def _by_path(
    root: str, masks: Mapping[str, str], spaces: Spaces, sizes: Mapping[str, Sizes]
) -> dict[str, LeafMask]:
    """Masks at the paths of the leaves of the actions, or at those of their entries."""
    leaves: dict[str, LeafMask] = {}
    used: set[str] = set()
    for name, each in sizes.items():
        for path in (name.partition(".")[2], name):
            parts = [f"{path}.{i}" if path else str(i) for i in range(len(each))]
            if path in masks:
                leaves |= _of_all(masks[path], spaces[path], {name: each})
                used.add(path)
            elif all(part in masks for part in parts):
                found = [
                    _of_all(masks[part], spaces[part], {name: (size,)})[name].sources
                    for part, size in zip(parts, each, strict=True)
                ]
                leaves[name] = LeafMask(sum(found, ()), each, False)
                used.update(parts)
    if unused := [path for path in masks if path not in used]:
        raise UsageError(
            f"{', '.join(masks[path] for path in unused)} masks no discrete action: below {root} "
            f"are the masks of {', '.join(sizes)}, at the same paths "
            "(policy.action_mask=false reads them as ordinary observations)"
        )
    return leaves


def _read(leaf: LeafMask, obs: Mapping[str, Tensor]) -> Bool[Tensor, "*N n"]:
    """The mask of a leaf as it is in the observations."""
    pieces = []
    for key, shape, first, size in leaf.sources:
        if key not in obs:
            raise ValueError(f"obs {key!r} is missing (given: {', '.join(obs) or 'none'})")
        mask, dims = obs[key], len(shape)
        if tuple(mask.shape[mask.dim() - dims :]) != shape:
            raise ValueError(f"obs {key!r} is {list(mask.shape)}; expected [..., {shape}]")
        mask = mask.flatten(-dims) if dims else mask.unsqueeze(-1)
        pieces.append(mask[..., first : first + size] != 0)
    return pieces[0] if len(pieces) == 1 else cat(pieces, dim=-1)


def _parts(mask: Bool[Tensor, "*N n"], leaf: LeafMask) -> tuple[Bool[Tensor, "*N _"], ...]:
    """The parts of a mask of which each needs a legal place."""
    return (mask,) if leaf.joint or len(leaf.sizes) == 1 else mask.split(leaf.sizes, dim=-1)


def _open(mask: Bool[Tensor, "*N n"], leaf: LeafMask) -> Bool[Tensor, "*N n"]:
    """The mask, but everything is legal in a part without a legal place."""
    parts = [part | ~part.any(dim=-1, keepdim=True) for part in _parts(mask, leaf)]
    return parts[0] if len(parts) == 1 else cat(parts, dim=-1)
