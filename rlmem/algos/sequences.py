"""Rows of stored experience: what every off-policy algorithm learns from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem.envs.base import Tensors


@dataclass
class Sequences:
    """B rows of T steps, cut out of tapes: T + 1 observations each, so one scan reads it all.

    A tape is what one environment did, end to end. After the last step of an episode (of a trial,
    where the memory outlives an episode) its final observation has an entry of its own, in which
    nothing is done; the entry after it has a `start`. So what follows step t is always entry
    t + 1: its value is what step t bootstraps from, unless `terminated[t]`.

    `mask` says which steps there are to learn from: not those without an action, and not the
    burn-in, which is there to be remembered. `state` is the memory before the first entry.
    `weight` corrects for how likely a row was drawn (Schaul et al. 2016, eq. 2); `unit` names the
    rows for `Replay.update_priorities`.
    """

    obs: Tensors  # leaves [B, T + 1, ...]
    start: Bool[Tensor, "B N"]  # N = T + 1
    action: Tensors  # leaves [B, T, ...]
    reward: Float[Tensor, "B T"]
    terminated: Bool[Tensor, "B T"]
    truncated: Bool[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    state: Any
    weight: Float[Tensor, "B"]
    unit: Int[Tensor, "B"]
    burn_in: int = 0  # steps at the beginning of every row that are there to be remembered

    def past_burn_in(self, state: Any) -> Sequences:
        """The rows without the burn-in, after which the memory is `state`."""
        burn_in = self.burn_in
        return replace(
            self,
            obs={key: leaf[:, burn_in:] for key, leaf in self.obs.items()},
            start=self.start[:, burn_in:],
            action={key: leaf[:, burn_in:] for key, leaf in self.action.items()},
            reward=self.reward[:, burn_in:],
            terminated=self.terminated[:, burn_in:],
            truncated=self.truncated[:, burn_in:],
            mask=self.mask[:, burn_in:],
            state=state,
            burn_in=0,
        )

    @property
    def done(self) -> Bool[Tensor, "B T"]:
        """Steps that were the last of their episode: no return goes across."""
        return self.terminated | self.truncated
