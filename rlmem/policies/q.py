"""The policy of Q-learning: a value for every joint action over one memory, epsilon-greedy."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlmem.policies.action_space import JointDiscrete
from rlmem.policies.actor_critic import PolicyStep
from rlmem.policies.encoders import mlp
from rlmem.policies.heads import best, linear
from rlmem.policies.normalizer import RunningMoments
from rlmem.policies.policy import Act, Policy

# Gain of the last layer. The target's maximum would pick random large values, so the first
# values are near 0.
GAIN = 0.01


class QHead(nn.Module):
    """Features [*N, H] to a value for each of `n` joint actions.

    With `dueling`, `Q(s, a) = V(s) + A(s, a) - mean_a A(s, a)` (Wang et al. 2016, arXiv
    1511.06581, eq. 9), one MLP of `layers` layers for each of V and A. With `legal`, the mean is
    over legal actions, and the values of illegal ones are minus infinity.
    """

    def __init__(
        self, input_size: int, n: int, layers: int, activation: str, dueling: bool
    ) -> None:
        super().__init__()

        def stream(width: int) -> nn.Sequential:
            hidden = mlp([input_size] * (layers + 1), activation)
            return nn.Sequential(*hidden, linear(input_size, width, GAIN))

        self.advantage = stream(n)
        self.value = stream(1) if dueling else None

    def forward(
        self, x: Float[Tensor, "*N H"], legal: Bool[Tensor, "*N n"] | None = None
    ) -> Float[Tensor, "*N n"]:
        q = self.advantage(x).float()
        if self.value is not None:
            q = self.value(x).float() + q - legal_mean(q, legal)
        return q if legal is None else q.masked_fill(~legal, -torch.inf)


def legal_mean(q: Float[Tensor, "*N n"], legal: Bool[Tensor, "*N n"] | None) -> Tensor:
    """The mean [*N, 1] over (legal) actions."""
    if legal is None:
        return q.mean(dim=-1, keepdim=True)
    return torch.where(legal, q, 0).sum(dim=-1, keepdim=True) / legal.sum(dim=-1, keepdim=True)


class QPolicy(Policy):
    """The values of all joint actions; takes the options of `Policy`, and `dueling`.

    `normalize_reward` keeps the statistics of the returns, which the algorithm updates.

    `epsilon` (float32, a scalar or one number per environment) is the probability of a random
    action in `act` without `deterministic`. The algorithm sets it; it starts at 0 and is not saved.
    Raises `UsageError` if an action is continuous or there are too many joint actions.
    """

    epsilon: Tensor

    def __init__(
        self,
        observation_space: dict[str, gym.Space],
        action_space: dict[str, gym.Space],
        dueling: bool = True,
        normalize_reward: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(observation_space, action_space, **options)
        self.discrete = JointDiscrete(action_space)
        self.q = QHead(
            self.hidden_size, self.discrete.n, self.head_layers, self.activation, dueling
        )
        self.reward_moments = RunningMoments(1) if normalize_reward else None
        self.register_buffer("epsilon", torch.zeros(()), persistent=False)

    def act(
        self,
        obs: dict[str, Tensor],
        state: Any,
        start: Bool[Tensor, "N"],
        deterministic: bool = False,
    ) -> Act:
        """One time step: the action with the highest value, or an epsilon-greedy one."""
        features, state = self.core.step(self.encoder.encode_step(obs, start), state, start)
        legal = self._legal(obs)
        q = self.q(features, legal)
        index = best(q, legal)
        if not deterministic:
            index = self.discrete.explore(index, self.epsilon, legal)

        def advantage(action: dict[str, Tensor]) -> Tensor:
            chosen = q.gather(-1, self.discrete.index(action).unsqueeze(-1))
            return (chosen - legal_mean(q, legal)).squeeze(-1)

        return Act(self.discrete.action(index), state, lambda: {"q": q}, advantage)

    def act_with_value(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "N"]
    ) -> PolicyStep:
        """One time step, epsilon-greedy; the value is that of the greedy action."""
        features, state = self.core.step(self.encoder.encode_step(obs, start), state, start)
        legal = self._legal(obs)
        q = self.q(features, legal)
        value, greedy = q.amax(dim=-1), best(q, legal)
        index = self.discrete.explore(greedy, self.epsilon, legal)
        count = self.discrete.n if legal is None else legal.sum(dim=-1)
        probability = self.epsilon / count + (1 - self.epsilon) * (index == greedy)
        return PolicyStep(self.discrete.action(index), probability.log(), value, state)

    def value(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "N"]
    ) -> Float[Tensor, "N"]:
        """`max_a Q` at one time step; reads the state without advancing it."""
        x = self.encoder.encode_step(obs, start)
        return self.q(self.core.step(x, state, start)[0], self._legal(obs)).amax(dim=-1)

    def forward(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B T n"]:
        """A row of time steps [B, T, ...]: the values of all n joint actions.

        Those of illegal actions are minus infinity.
        """
        features, _ = self.core.scan(self.encoder.encode_row(obs, start), state, start)
        return self.q(features, self._legal(obs))

    def mean_value(self, q: Float[Tensor, "*N n"]) -> Float[Tensor, ""]:
        """The mean of the values of legal actions, for metrics."""
        if self.mask is None:
            return q.mean()
        legal = q > -torch.inf
        return torch.where(legal, q, 0).sum() / legal.sum()

    def _legal(self, obs: dict[str, Tensor]) -> Bool[Tensor, "*N n"] | None:
        return None if self.mask is None else self.discrete.legal(self.mask(obs))
