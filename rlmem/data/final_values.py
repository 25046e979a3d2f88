"""Values of final observations on a device that takes long to ask, such as a GPU."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from rlmem import tree
from rlmem.envs.base import Tensors, Transition

# Steps between two reads; fewer if the observations and memory states of so many are larger.
MOST_STEPS, MOST_BYTES = 32, 2**30


class Critic(Protocol):
    """A policy that estimates the value of an observation."""

    def value(self, obs: Tensors, state: Any, start: Tensor) -> Tensor: ...


class _Kept(NamedTuple):
    t: int
    step: Transition
    state: Any


class FinalValues:
    """Writes the value of the final observation after each truncated step into `next_value`.

    It keeps some steps with the memory after each. Then one read tells the truncated episodes, and
    one call of the policy gives the values of all of them. On a CPU, asking at each step is faster.
    """

    def __init__(self, policy: Critic, next_value: Float[Tensor, "N T"]) -> None:
        self.policy, self.next_value = policy, next_value
        self.kept: list[_Kept] = []
        self.bytes = 0

    def add(self, t: int, step: Transition, state: Any) -> None:
        """Keep step `t`; `state` is the memory after its observation."""
        self.kept.append(_Kept(t, step, state))
        leaves = [*step.final_obs.values(), *tree.leaves(state)]
        self.bytes += sum(leaf.nbytes for leaf in leaves)
        if len(self.kept) == MOST_STEPS or self.bytes > MOST_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the values after the kept steps."""
        kept, self.kept, self.bytes = self.kept, [], 0
        if not kept:
            return
        found = torch.stack([each.step.truncated for each in kept]).nonzero()
        if not len(found):
            return
        number, env = found.unbind(1)
        place = number * len(self.next_value) + env

        def some(*leaves: Tensor) -> Tensor:
            return torch.stack(leaves).flatten(0, 1)[place]

        steps = [each.step for each in kept]
        obs = {key: some(*(step.final_obs[key] for step in steps)) for key in steps[0].final_obs}
        state = tree.map(some, *(each.state for each in kept))
        value = self.policy.value(obs, state, torch.zeros_like(env, dtype=torch.bool))
        self.next_value[env, number + kept[0].t] = value.to(self.next_value.dtype)
