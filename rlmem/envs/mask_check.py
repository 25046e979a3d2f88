"""Check of action masks: every observation to act on has a legal action."""

from __future__ import annotations

import torch
from jaxtyping import Bool

from rlmem.envs.base import Spaces, Tensors
from rlmem.errors import UsageError
from rlmem.spaces.action_mask import ActionMask

# Devices whose results can be read without waiting; steps between two reads of others.
AT_ONCE = ("cpu",)
PERIOD = 256


class MaskCheck:
    """Raises `UsageError` for an observation whose mask allows no action.

    The error names environment and step (counted since the last reset). On a CPU it comes at once;
    on other devices the step is noted there, and read at every `PERIOD`-th step and at a
    reset. Final observations of ended episodes are not checked: nothing can be done after them.
    """

    def __init__(self, mask: ActionMask) -> None:
        self.mask = mask
        self.first: torch.Tensor | None = None  # the first wrong step of each environment, or -1

    def __call__(
        self, obs: Tensors, step: int, over: Bool[torch.Tensor, "N"] | None = None
    ) -> None:
        """Check the observations after `step` steps; step 0 are those of a reset.

        In the environments that are `over` the next action is ignored.
        """
        none = self.mask.none_legal(obs)
        if over is not None:
            none = none & ~over
        if none.device.type in AT_ONCE:
            if none.any():
                self._refuse(int(none.long().argmax()), step)
            return
        if step == 0:
            self._read()
            self.first = torch.full(none.shape, -1, device=none.device)
        assert self.first is not None
        self.first = torch.where(none & (self.first < 0), step, self.first)
        if step % PERIOD == 0:
            self._read()

    def _read(self) -> None:
        if self.first is None:
            return
        first = self.first.tolist()
        wrong = [(step, env) for env, step in enumerate(first) if step >= 0]
        if wrong:
            step, env = min(wrong)
            self._refuse(env, step)

    def _refuse(self, env: int, step: int) -> None:
        reset = " (reset)" if step == 0 else ""
        raise UsageError(
            f"environment {env}, step {step}{reset}: the mask {', '.join(self.mask.keys)} allows "
            "no action"
        )


def mask_check(observation_space: Spaces, action_space: Spaces) -> MaskCheck | None:
    """The check of an environment's observations; None if they have no mask that fits."""
    try:
        mask = ActionMask.find(observation_space, action_space)
    except UsageError:
        # A policy can read it as an ordinary observation, and refuses it as a mask.
        return None
    return None if mask is None else MaskCheck(mask)
