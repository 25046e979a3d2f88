"""The agent of on-policy actor-critic algorithms: actor and critic over one shared memory."""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from rlmem.policies.distributions import Joint
from rlmem.policies.heads import Actor, Critic
from rlmem.policies.policy import Act, Policy


class Decision(NamedTuple):
    """An action with what the agent thought of it and of where it was."""

    action: dict[str, Tensor]
    log_prob: Float[Tensor, "N"]
    value: Float[Tensor, "N"]
    state: Any


class ActorCritic(Policy):
    """Actor and critic over one shared memory; takes what `Policy` takes."""

    def __init__(
        self, observation_space: dict[str, Any], action_space: dict[str, Any], **options: Any
    ) -> None:
        super().__init__(observation_space, action_space, **options)
        self.actor = Actor(action_space, self.hidden_size, self.head_layers, self.activation)
        self.critic = Critic(self.hidden_size, self.head_layers, self.activation)

    def act(
        self,
        obs: dict[str, Tensor],
        state: Any,
        start: Bool[Tensor, "N"],
        deterministic: bool = False,
    ) -> Act:
        """One time step: sample an action (or take the most likely one)."""
        features, state = self.step_features(obs, state, start)
        actor = self.actor(features)
        return Act(actor.mode() if deterministic else actor.sample(), state)

    def decide(self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "N"]) -> Decision:
        """One time step: a sampled action, its log-probability and the value."""
        features, state = self.step_features(obs, state, start)
        actor = self.actor(features)
        action = actor.sample()
        return Decision(action, actor.log_prob(action), self.critic(features), state)

    def value(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "N"]
    ) -> Float[Tensor, "N"]:
        """One time step of the critic alone; the state is read and not advanced."""
        return self.critic(self.step_features(obs, state, start)[0])

    def forward(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "B T"]
    ) -> tuple[Joint, Float[Tensor, "B T"]]:
        """A row of time steps [B, T, ...]: distributions over actions, and values."""
        features, _ = self.scan_features(obs, state, start)
        return self.actor(features), self.critic(features)
