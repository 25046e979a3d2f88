"""Check of the observations and rewards of environments on tensors."""

from __future__ import annotations

from rlmem.envs.base import Tensors, Transition
from rlmem.envs.refusals import Refused, as_float32
from rlmem.envs.spaces import FlatSpace
from rlmem.errors import UsageError


class ObservationCheck:
    """Raises `UsageError` for observations outside of their space and rewards that are not finite.

    The error names leaf, environment, step (counted since the last reset) and value. The bounds of
    a Box of floats are not checked. On a GPU a check waits for the device.
    """

    def __init__(self, space: FlatSpace, num_envs: int) -> None:
        self.space, self.num_envs = space, num_envs
        self.steps = 0

    def reset(self, obs: Tensors) -> None:
        """Check the observations of a reset."""
        self.steps = 0
        try:
            self._check(obs)
        except Refused as error:
            raise error.at(error.row, self.steps) from None

    def step(self, step: Transition) -> None:
        """Check the results of a step."""
        self.steps += 1
        try:
            as_float32("reward", step.reward.cpu().numpy(), checked=True)
            self._check(step.final_obs)
            if step.obs is not step.final_obs:
                self._check(step.obs)
        except Refused as error:
            raise error.at(error.row, self.steps) from None

    def _check(self, obs: Tensors) -> None:
        if obs.keys() != self.space.spaces.keys():
            expected = ", ".join(self.space.spaces)
            raise UsageError(f"observations have the leaves {', '.join(obs)}, not {expected}")
        for leaf in self.space.leaves:
            rows, shape = obs[leaf.name].cpu().numpy(), (self.num_envs, *leaf.shape)
            if (rows.dtype, rows.shape) != (leaf.dtype, shape):
                given = f"dtype {rows.dtype} and shape {list(rows.shape)}"
                expected = f"dtype {leaf.dtype} and shape {list(shape)}"
                raise UsageError(f"{leaf.name} has {given}, not {expected}")
            # Tensors are their own samples, but for the offset of a discrete space.
            leaf.rows(rows if leaf.offset is None else rows + leaf.offset, checked=True)
