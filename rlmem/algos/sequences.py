"""Rows of stored experience: what every off-policy algorithm learns from."""

from __future__ import annotations

from dataclasses import dataclass
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
    start: Bool[Tensor, "B T+1"]
    action: Tensors  # leaves [B, T, ...]
    reward: Float[Tensor, "B T"]
    terminated: Bool[Tensor, "B T"]
    truncated: Bool[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    state: Any
    weight: Float[Tensor, "B"]
    unit: Int[Tensor, "B"]

    @property
    def done(self) -> Bool[Tensor, "B T"]:
        """Steps that were the last of their episode: no return goes across."""
        return self.terminated | self.truncated
