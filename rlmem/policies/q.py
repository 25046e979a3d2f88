"""The agent of Q-learning: a value for every action, epsilon-greedy, over one memory."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlmem.policies.actor_critic import Decision
from rlmem.policies.choices import MOST, Choices, finite
from rlmem.policies.encoders import mlp
from rlmem.policies.heads import linear
from rlmem.policies.policy import Act, Policy

# Of the last layer. The target's maximum picks what the first weights say too much, so they say
# next to nothing.
GAIN = 0.01


class QHead(nn.Module):
    """Features [*N, H] to a value for each of `n` choices.

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
    """The values of all joint actions over one memory; takes what `Policy` takes, and `dueling`.

    `epsilon` (float32, a scalar or one number for each environment) is how likely `act` draws an
    action at random where it is not `deterministic`. It is set by the algorithm, not saved, and 0
    at first. Raises `UsageError` where the actions cannot be counted.
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
        self.choices = Choices(action_space)
        self.q = QHead(self.hidden_size, self.choices.n, self.head_layers, self.activation, dueling)
        self.register_buffer("epsilon", torch.zeros(()), persistent=False)

    def act(
        self,
        obs: dict[str, Tensor],
        state: Any,
        start: Bool[Tensor, "N"],
        deterministic: bool = False,
    ) -> Act:
        """One time step: the action of the highest value, or epsilon-greedy."""
        features, state = self.step_features(obs, state, start)
        choice = self.q(features).argmax(dim=-1)
        return Act(self.choices.action(choice if deterministic else self._explore(choice)), state)

    def decide(self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "N"]) -> Decision:
        """One time step, epsilon-greedy: the value is that of the greedy action."""
        features, state = self.step_features(obs, state, start)
        value, greedy = self.q(features).max(dim=-1)
        choice = self._explore(greedy)
        probability = self.epsilon / self.choices.n + (1 - self.epsilon) * (choice == greedy)
        return Decision(self.choices.action(choice), probability.log(), value, state)

    def value(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "N"]
    ) -> Float[Tensor, "N"]:
        """`max_a Q` at one time step; the state is read and not advanced."""
        return self.q(self.step_features(obs, state, start)[0]).amax(dim=-1)

    def forward(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B T n"]:
        """A row of time steps [B, T, ...]: the values of all `choices`."""
        return self.q(self.scan_features(obs, state, start)[0])

    def _explore(self, choice: Int[Tensor, "N"]) -> Int[Tensor, "N"]:
        return self.choices.explore(choice, self.epsilon)


def misfit(action_space: dict[str, gym.Space]) -> str | None:
    """What an action space lacks for a value of every action; None where it fits."""
    return None if finite(action_space) else f"it needs at most {MOST} actions that can be counted"
