"""Checks of the observations and rewards of environments on tensors."""

from __future__ import annotations

from collections.abc import Sequence

from rlmem.envs.base import Spaces, Tensors, Transition
from rlmem.envs.mask_check import MaskCheck, mask_check
from rlmem.envs.refusals import Refused, as_float32
from rlmem.envs.spaces import FlatSpace, Leaf
from rlmem.errors import UsageError


class ObservationCheck:
    """Raises `UsageError` for masks that allow no action (see `MaskCheck`) and, with `values`, for
    observations outside of their space and rewards that are not finite.

    The error names leaf, environment, step (counted since the last reset) and value. The bounds of
    a Box of floats are not checked. On a GPU a check of values waits for the device.
    """

    def __init__(
        self,
        leaves: Sequence[Leaf],
        num_envs: int,
        values: bool = True,
        mask: MaskCheck | None = None,
    ) -> None:
        self.leaves, self.num_envs = leaves, num_envs
        self.values, self.mask = values, mask
        self.steps = 0

    def reset(self, obs: Tensors) -> None:
        """Check the observations of a reset."""
        self.steps = 0
        self._check_values(obs)
        if self.mask:
            self.mask(obs, 0)

    def step(self, step: Transition) -> None:
        """Check the results of a step."""
        self.steps += 1
        if self.values:
            self._check_step(step)
        if self.mask:
            self.mask(step.obs, self.steps)

    def _check_step(self, step: Transition) -> None:
        try:
            as_float32("reward", step.reward.cpu().numpy(), checked=True)
        except Refused as error:
            raise error.at(error.row, self.steps) from None
        self._check_values(step.final_obs)
        if step.obs is not step.final_obs:
            self._check_values(step.obs)

    def _check_values(self, obs: Tensors) -> None:
        if not self.values:
            return
        if obs.keys() != {leaf.name for leaf in self.leaves}:
            expected = ", ".join(leaf.name for leaf in self.leaves)
            raise UsageError(f"observations have the leaves {', '.join(obs)}, not {expected}")
        for leaf in self.leaves:
            rows, shape = obs[leaf.name].cpu().numpy(), (self.num_envs, *leaf.shape)
            if (rows.dtype, rows.shape) != (leaf.dtype, shape):
                given = f"dtype {rows.dtype} and shape {list(rows.shape)}"
                expected = f"dtype {leaf.dtype} and shape {list(shape)}"
                raise UsageError(f"{leaf.name} has {given}, not {expected}")
            try:
                # Tensors are their own samples, but for the offset of a discrete space.
                leaf.rows(rows if leaf.offset is None else rows + leaf.offset, checked=True)
            except Refused as error:
                raise error.at(error.row, self.steps) from None


def observation_check(
    space: FlatSpace, action_space: Spaces, num_envs: int, values: bool
) -> ObservationCheck | None:
    """The check of observations with a mask, or of all values; None if there is nothing to do."""
    mask = mask_check(space.spaces, action_space)
    return ObservationCheck(space.leaves, num_envs, values, mask) if values or mask else None
