"""Optimal policies of batches of known Markov decision processes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def finite_horizon(
    transition: Float[Tensor, "N S A S"], reward: Float[Tensor, "N S A"], length: int
) -> tuple[Int[Tensor, "N length S"], Float[Tensor, "N S"]]:
    """Backward induction (Puterman 1994, section 4.5), computed in float64.

        V[length] = 0,  Q[t] = reward + transition V[t + 1],  V[t] = max_a Q[t]

    Returns the best action for each step t and state, and the values V[0]. If a row of `transition`
    sums to less than 1, the missing probability ends the episode.
    """
    transition, reward = transition.double(), reward.double()
    value = torch.zeros_like(reward[..., 0])
    best = []
    for _ in range(length):
        q = reward + torch.einsum("nsaz,nz->nsa", transition, value)
        value, action = q.max(-1)
        best.append(action)
    return torch.stack(best[::-1], 1), value.float()
