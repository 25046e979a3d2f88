"""Random legal actions in one Gymnasium environment, as it is, for checks of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from gymnasium.vector.utils import batch_space, iterate

from rlmem.envs.base import Tensors
from rlmem.envs.info_mask import mask_space, merge, with_mask
from rlmem.envs.legal_actions import LegalActions
from rlmem.envs.spaces import ActionSpace, FlatSpace
from rlmem.errors import UsageError
from rlmem.spaces.action_mask import NAME


class RandomLegal:
    """Replaces the masked parts of random actions by legal ones.

    `place` is where the mask was found, None if there is none. A `UsageError` if a mask does not
    fit the actions.
    """

    def __init__(self, obs: FlatSpace, action: ActionSpace) -> None:
        self.obs, self.action = obs, action
        self.legal = LegalActions.find(obs.spaces, action.spaces)
        self.place = None if self.legal is None else ", ".join(self.legal.mask.keys)
        self.in_info = False
        self.seen: Tensors = {}
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Start the random numbers anew."""
        self.generator = torch.Generator().manual_seed(seed)

    def read(self, obs: Any, info: Mapping[str, Any]) -> None:
        """Read the mask of an observation; a `UsageError` if it allows no action."""
        mask = info.get(NAME)
        if self.legal is None and mask is not None:
            # The first one: the mask is read as if it were a part of the observation.
            self.obs = FlatSpace("obs", with_mask(self.obs.source, mask_space(mask)))
            self.legal = LegalActions.find(self.obs.spaces, self.action.spaces)
            self.place, self.in_info = f"info[{NAME!r}]", True
        if self.legal is None:
            return
        if self.in_info:
            if mask is None:
                raise UsageError(f"info has no {NAME!r} here, and had one before")
            obs = merge(obs, mask)
        self.seen = self.obs.tensors(self.obs.columns([obs]))
        if self.legal.mask.none_legal(self.seen).any():
            raise UsageError("the mask allows no action")

    def of(self, sample: Any) -> Any:
        """An action as `sample`, but for its masked parts."""
        if self.legal is None:
            return sample
        leaves = self.action.stack([sample]) | self.legal.draw(self.seen, self.generator)
        batch = self.action.write(leaves, 1)
        return next(iter(iterate(batch_space(self.action.source, 1), batch)))
