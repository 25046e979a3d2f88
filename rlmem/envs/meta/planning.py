"""The best policy of a known Markov decision process, for many of them at once."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def finite_horizon(
    transition: Float[Tensor, "N S A S"], reward: Float[Tensor, "N S A"], length: int
) -> tuple[Int[Tensor, "N length S"], Float[Tensor, "N S"]]:
    """Backward induction (Puterman 1994, section 4.5), in float64 inside.

        V[length] = 0,  Q[t] = reward + transition V[t + 1],  V[t] = max_a Q[t]

    Returns the best action for each step t and state, and the values V[0]. Rows of `transition`
    that do not add up to 1 end the episode with what is missing.
    """
    transition, reward = transition.double(), reward.double()
    value = torch.zeros_like(reward[..., 0])
    best = []
    for _ in range(length):
        q = reward + torch.einsum("nsaz,nz->nsa", transition, value)
        value, action = q.max(-1)
        best.append(action)
    return torch.stack(best[::-1], 1), value.float()
