"""Batches of stored experience for off-policy algorithms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.ranks import group, reduce


@dataclass
class SequenceBatch:
    """B rows of T steps from a replay, with T + 1 observations each: one scan reads a whole row.

    After the last step of an episode (of a trial, if the memory outlives an episode) the final
    observation has its own entry, without an action; the entry after it has a `start`. So entry
    t + 1 always holds the observation after step t: its value is the bootstrap of step t, unless
    `terminated[t]`.

    `mask` marks the steps to learn from: not the entries without an action, and not the burn-in,
    which only warms up the memory. `state` is the memory before the first entry. `weight` corrects
    for a row's sampling probability (Schaul et al. 2016, eq. 2). `segment` holds the rows' segment
    ids for `Replay.update_priorities`.
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
    segment: Int[Tensor, "B"]
    burn_in: int = 0  # steps at the beginning of every row that only warm up the memory

    def past_burn_in(self, state: Any) -> SequenceBatch:
        """The rows after the burn-in, where the memory is `state`."""
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

    @cached_property
    def learned_steps(self) -> Tensor:
        """The number of unmasked steps, at least 1: the denominator of means over them.

        With several ranks it is the mean of their numbers. Then the mean of their losses is that
        over the steps of all ranks.
        """
        if not group.several():
            return self.mask.sum().clamp(min=1)
        return reduce.mean(self.mask.sum().float()).clamp(min=1 / group.count())

    @property
    def done(self) -> Bool[Tensor, "B T"]:
        """The last steps of episodes: no return extends beyond them."""
        return self.terminated | self.truncated
