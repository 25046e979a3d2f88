"""Agents whose memory was reset or replaced a number of steps ago."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from rlmem import tree
from rlmem.envs.base import Tensors
from rlmem.policies import Act, Policy


class Memories(NamedTuple):
    """`whole` is the memory of all observations, `recent` those begun later, the oldest first.

    `steps` is the number of time steps so far.
    """

    steps: int
    whole: Any
    recent: tuple[Any, ...]


class Recent:
    """A policy whose memory holds the last `keep` observations, the present one included.

    The action at step t depends on the memory that was reset before the observation of step
    t - keep + 1 and has read all observations since. With `swap` it was not reset but replaced by
    that of another episode: the memory that the next row of the batch has at this step, of all its
    own observations. Before, for t < keep, and always with `keep=None`, the memory is the whole
    one, so an episode of at most `keep` steps is played as by the policy itself.

    Only the memory changes: observations stay as they are, also those that tell that an episode
    has begun. `keep` memories, one begun at each of the last steps, are advanced side by side.
    `longest` is the largest number of steps played so far.
    """

    def __init__(self, policy: Policy, keep: int | None, swap: bool = False) -> None:
        self.policy = policy
        self.keep = keep
        self.swap = swap
        self.longest = 0

    def initial_state(self, batch_size: int) -> Memories:
        """The memories before the first observation."""
        return Memories(0, self.policy.initial_state(batch_size), ())

    def act(
        self,
        obs: Tensors,
        state: Memories,
        start: Bool[Tensor, "N"],
        deterministic: bool = False,
    ) -> Act:
        """One time step of all memories; the action is by the one that is due."""
        steps, whole, recent = state
        self.longest = max(self.longest, steps + 1)
        if self.keep is None:
            act = self.policy.act(obs, whole, start, deterministic)
            return act._replace(state=Memories(steps + 1, act.state, ()))
        if steps > 0:
            recent = (*recent, self._begun(whole, len(start)))
        if len(recent) == self.keep:
            act = self.policy.act(obs, recent[0], start, deterministic)
            recent = recent[1:]
            if self.swap:
                whole = self.policy.act(obs, whole, start, True).state
        else:
            act = self.policy.act(obs, whole, start, deterministic)
            whole = act.state
        recent = self._advanced(obs, recent, start)
        return act._replace(state=Memories(steps + 1, whole, recent))

    def _begun(self, whole: Any, rows: int) -> Any:
        """A memory that begins with the present observation."""
        if self.swap:
            return tree.map(lambda leaf: leaf.roll(1, 0), whole)
        return self.policy.initial_state(rows)

    def _advanced(self, obs: Tensors, memories: Sequence[Any], start: Tensor) -> tuple[Any, ...]:
        """The memories after this observation, in one step of all of them."""
        if not memories:
            return ()
        count, rows = len(memories), len(start)
        together = tree.map(lambda *leaves: torch.cat(leaves), *memories)
        seen = {key: leaf.repeat(count, *(1,) * (leaf.dim() - 1)) for key, leaf in obs.items()}
        after = self.policy.act(seen, together, start.repeat(count), True).state
        return tuple(
            tree.map(lambda leaf, i=i: leaf[i * rows : (i + 1) * rows], after) for i in range(count)
        )
