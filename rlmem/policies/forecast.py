"""Auxiliary prediction: the next observation and the reward, from the memory's features.

Rewards that are rare or noisy say little of what a memory should hold. What is observed next says
it at every step (Jaderberg et al. 2017, UNREAL, arXiv 1611.05397; Wayne et al. 2018, MERLIN, arXiv
1803.10760). The heads are used in training only; actions do not depend on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import gymnasium as gym
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.errors import UsageError
from rlmem.policies.encoders import Encoder
from rlmem.policies.encoders.base import LeafEncoder, flat, mlp
from rlmem.spaces.discrete import categories, first_values

# The agent knows them already.
KNOWN = ("previous_action", "previous_reward", "start")


class Forecast(nn.Module):
    """Heads on the features of a memory and the action taken.

    `encoder` is the policy's: of its leaves, discrete ones are predicted by their probabilities,
    vectors by their means, normalised if the encoder's inputs are. Images and previous actions are
    left out. Raises `UsageError` if nothing is left.
    """

    def __init__(
        self,
        encoder: Encoder,
        action_space: Mapping[str, gym.Space],
        hidden_size: int,
        activation: str = "leaky_relu",
    ) -> None:
        super().__init__()
        self.action = LeafEncoder(action_space, hidden_size, activation=activation)
        # What follows depends on memory and action together, not on their sum.
        self.both = mlp([hidden_size, hidden_size], activation)
        self.choices: dict[str, tuple[list[int], list[int]]] = {}
        self.numbers: dict[str, int] = {}
        for key, space in encoder.spaces.items():
            shape = space.shape or ()
            if key.split(".")[0] in KNOWN or (isinstance(space, gym.spaces.Box) and len(shape) > 1):
                continue
            if isinstance(space, gym.spaces.Box):
                self.numbers[key] = math.prod(shape)
            else:
                self.choices[key] = (list(categories(space)), list(first_values(space)))
        self.dims = {key: len(space.shape or ()) for key, space in encoder.spaces.items()}
        self.sizes = [n for counts, _ in self.choices.values() for n in counts]
        self.sizes += self.numbers.values()
        if not self.sizes:
            raise UsageError("predict_obs and predict_reward need a discrete leaf or a vector")
        self.observation = nn.Linear(hidden_size, sum(self.sizes))
        self.reward = nn.Linear(hidden_size, 1)

    def losses(
        self,
        features: Float[Tensor, "B T H"],
        action: Mapping[str, Tensor],
        obs: Mapping[str, Tensor],
        reward: Float[Tensor, "B T"],
        start: Bool[Tensor, "B T"],
    ) -> tuple[Tensor, Tensor]:
        """Mean losses of the observations after, and of the rewards of, the steps of a row.

        `obs` are normalised, and `reward` has about variance 1. The last step of a row and those
        before a start have no next observation here, and count as 0.
        """
        x = self.both(features + self.action(dict(action)))
        reward_loss = 0.5 * (self.reward(x).squeeze(-1) - reward).square().mean()
        parts = iter(self.observation(x[:, :-1]).split(self.sizes, dim=-1))
        total = x.new_zeros(reward[:, 1:].shape)
        for key, (counts, lows) in self.choices.items():
            entries = flat(obs[key][:, 1:].long(), self.dims[key]).unbind(-1)
            for entry, low, _ in zip(entries, lows, counts, strict=True):
                logits = next(parts)
                loss = F.cross_entropy(
                    logits.flatten(0, 1), (entry - low).flatten(), reduction="none"
                )
                total = total + loss.view_as(total)
        for key in self.numbers:
            error = next(parts) - flat(obs[key][:, 1:], self.dims[key]).to(x.dtype)
            total = total + 0.5 * error.square().mean(-1)
        return torch.where(start[:, 1:], 0.0, total).mean(), reward_loss
