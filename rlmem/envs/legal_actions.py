"""Random legal actions, and the legality of given ones, for players that are no policies."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from rlmem.envs.base import Spaces, Tensors
from rlmem.spaces.action_mask import ActionMask, LeafMask
from rlmem.spaces.discrete import first_values


class LegalActions:
    """The legal actions in the observations of an environment with a mask."""

    def __init__(self, mask: ActionMask, action_space: Spaces) -> None:
        self.mask = mask
        self.shapes = {key: tuple(action_space[key].shape or ()) for key in mask.leaves}
        self.first = {key: torch.tensor(first_values(action_space[key])) for key in mask.leaves}

    @classmethod
    def find(cls, observation_space: Spaces, action_space: Spaces) -> LegalActions | None:
        """Those of an environment; None without a mask, a `UsageError` if it does not fit."""
        mask = ActionMask.find(observation_space, action_space)
        return None if mask is None else cls(mask, action_space)

    def draw(self, obs: Tensors, generator: torch.Generator | None = None) -> Tensors:
        """Uniformly random legal actions of the masked leaves."""
        drawn = {}
        for key, legal in self.mask(obs).items():
            sizes = self.mask.leaves[key].sizes
            masks = [legal.mask] if legal.joint else legal.mask.split(sizes, dim=-1)
            entries = [_one_of(mask, generator) for mask in masks]
            if legal.joint:
                entries = list(torch.unravel_index(entries[0], sizes))
            values = torch.stack(entries, dim=-1) + self.first[key].to(legal.mask.device)
            shape = self.shapes[key]
            drawn[key] = values.unflatten(-1, shape) if shape else values.squeeze(-1)
        return drawn

    def allows(self, obs: Tensors, action: Tensors) -> Bool[Tensor, "N"]:
        """Whether each of these actions is legal."""
        rows: Tensor | None = None
        for key, legal in self.mask(obs).items():
            dims, first = len(self.shapes[key]), self.first[key].to(legal.mask.device)
            leaf = action[key].long()
            values = (leaf.flatten(-dims) if dims else leaf.unsqueeze(-1)) - first
            fine = legal.mask.gather(-1, _places(values, self.mask.leaves[key])).all(dim=-1)
            rows = fine if rows is None else rows & fine
        assert rows is not None
        return rows


def _one_of(mask: Bool[Tensor, "N n"], generator: torch.Generator | None) -> Tensor:
    luck = torch.rand(mask.shape, generator=generator, device=mask.device)
    return luck.masked_fill(~mask, -1).argmax(dim=-1)


def _places(values: Tensor, leaf: LeafMask) -> Tensor:
    """The places of the values of each entry in a mask: one of all, if it is `joint`."""
    sizes = torch.tensor(leaf.sizes, device=values.device)
    if leaf.joint:
        strides = sizes.flip(0).cumprod(0).flip(0) // sizes
        return (values * strides).sum(dim=-1, keepdim=True)
    return values + sizes.cumsum(0) - sizes
