"""The policy of Q-learning: a value for every joint action over one memory, epsilon-greedy."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlmem.policies.action_space import JointDiscrete
from rlmem.policies.actor_critic import PolicyStep
from rlmem.policies.encoders import mlp
from rlmem.policies.heads import linear
from rlmem.policies.policy import Act, Policy

# Gain of the last layer. The target's maximum would pick random large values, so the first
# values are near 0.
GAIN = 0.01


class QHead(nn.Module):
    """Features [*N, H] to a value for each of `n` joint actions.

    With `dueling`, `Q(s, a) = V(s) + A(s, a) - mean_a A(s, a)` (Wang et al. 2016, arXiv
    1511.06581, eq. 9), one MLP of `layers` layers for each of V and A.
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

    def forward(self, x: Float[Tensor, "*N H"]) -> Float[Tensor, "*N n"]:
        advantage = self.advantage(x).float()
        if self.value is None:
            return advantage
        return self.value(x).float() + advantage - advantage.mean(dim=-1, keepdim=True)


class QPolicy(Policy):
    """The values of all joint actions; takes the options of `Policy`, and `dueling`.

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
        **options: Any,
    ) -> None:
        super().__init__(observation_space, action_space, **options)
        self.discrete = JointDiscrete(action_space)
        self.q = QHead(
            self.hidden_size, self.discrete.n, self.head_layers, self.activation, dueling
        )
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
        q = self.q(features)
        index = q.argmax(dim=-1)
        action = self.discrete.action(index if deterministic else self._explore(index))
        return Act(action, state, lambda: {"q": q})

    def act_with_value(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "N"]
    ) -> PolicyStep:
        """One time step, epsilon-greedy; the value is that of the greedy action."""
        features, state = self.core.step(self.encoder.encode_step(obs, start), state, start)
        value, greedy = self.q(features).max(dim=-1)
        index = self._explore(greedy)
        probability = self.epsilon / self.discrete.n + (1 - self.epsilon) * (index == greedy)
        return PolicyStep(self.discrete.action(index), probability.log(), value, state)

    def value(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "N"]
    ) -> Float[Tensor, "N"]:
        """`max_a Q` at one time step; reads the state without advancing it."""
        x = self.encoder.encode_step(obs, start)
        return self.q(self.core.step(x, state, start)[0]).amax(dim=-1)

    def forward(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B T n"]:
        """A row of time steps [B, T, ...]: the values of all n joint actions."""
        return self.q(self.core.scan(self.encoder.encode_row(obs, start), state, start)[0])

    def _explore(self, index: Int[Tensor, "N"]) -> Int[Tensor, "N"]:
        return self.discrete.explore(index, self.epsilon)
