"""Values of final observations on a device that takes long to ask, such as a GPU."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlmem import tree
from rlmem.envs.base import Tensors, Transition

# Steps between two reads; fewer if the observations and memory states of so many are larger.
MOST_STEPS, MOST_BYTES = 32, 2**30


class Critic(Protocol):
    """A policy that estimates the value of an observation."""

    def value(self, obs: Tensors, state: Any, start: Tensor) -> Tensor: ...


class FinalValues:
    """Writes the value of the final observation after each truncated step into `next_value`.

    It keeps the final observations of some steps, with the memory after each: those of step t at
    place t modulo `capacity`. Then one read tells the truncated episodes, and one call of the
    policy gives the values of all of them. On a CPU, asking at each step is faster.
    """

    def __init__(self, policy: Critic, obs: Tensors, state: Any, num_steps: int) -> None:
        self.policy = policy
        leaves = [*obs.values(), *tree.leaves(state)]
        size = max(sum(leaf.nbytes for leaf in leaves), 1)
        self.capacity = max(1, min(MOST_STEPS, num_steps, MOST_BYTES // size))

        def places(leaf: Tensor) -> Tensor:
            return leaf.new_zeros(self.capacity, *leaf.shape)

        self.obs = {key: places(leaf) for key, leaf in obs.items()}
        self.state = tree.map(places, state)
        any_leaf = leaves[0]
        self.truncated: Bool[Tensor, "K N"] = any_leaf.new_zeros(
            self.capacity, len(any_leaf), dtype=torch.bool
        )

    def add(self, t: int | Tensor, step: Transition, state: Any) -> None:
        """Keep step `t` (as a tensor, [1]); `state` is the memory after its observation."""
        place = t % self.capacity
        for key, leaf in step.final_obs.items():
            tree.write(self.obs[key], leaf, place, dim=0)
        tree.map(lambda kept, leaf: tree.write(kept, leaf, place, dim=0), self.state, state)
        tree.write(self.truncated, step.truncated, place, dim=0)

    def flush(self, next_value: Float[Tensor, "N T"], first: int, count: int) -> None:
        """Write the values after steps `first` .. `first + count - 1`; `first` has place 0."""
        found = self.truncated[:count].nonzero()
        if not len(found):
            return
        number, env = found.unbind(1)
        obs = {key: leaf[number, env] for key, leaf in self.obs.items()}
        state = tree.map(lambda leaf: leaf[number, env], self.state)
        value = self.policy.value(obs, state, torch.zeros_like(env, dtype=torch.bool))
        next_value[env, number + first] = value.to(next_value.dtype)
