"""The agent of on-policy actor-critic algorithms: actor and critic over one memory or two."""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlmem.policies.distributions import Joint
from rlmem.policies.heads import Actor, Critic
from rlmem.policies.policy import Act, Policy, Trunk


class Decision(NamedTuple):
    """An action with what the agent thought of it and of where it was."""

    action: dict[str, Tensor]
    log_prob: Float[Tensor, "N"]
    value: Float[Tensor, "N"]
    state: Any


class ActorCritic(Policy):
    """Actor and critic over one shared memory, or over one each (`separate_critic`).

    Takes what `Policy` takes. Two memories are a pair of states, the actor's first.
    """

    def __init__(
        self,
        observation_space: dict[str, Any],
        action_space: dict[str, Any],
        separate_critic: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(observation_space, action_space, **options)
        self.actor = Actor(action_space, self.hidden_size, self.head_layers, self.activation)
        self.critic = Critic(self.hidden_size, self.head_layers, self.activation)
        options.pop("head_layers", None)
        self.critic_trunk = Trunk(observation_space, **options) if separate_critic else None

    def initial_state(self, batch_size: int) -> Any:
        """The memory before an episode's first observation."""
        state = super().initial_state(batch_size)
        if self.critic_trunk is None:
            return state
        return state, self.critic_trunk.initial_state(batch_size)

    def critic_parameters(self) -> list[nn.Parameter]:
        """What the critic alone learns; nothing where it shares the actor's memory."""
        if self.critic_trunk is None:
            return super().critic_parameters()
        return [*self.critic_trunk.parameters(), *self.critic.parameters()]

    def act(
        self,
        obs: dict[str, Tensor],
        state: Any,
        start: Bool[Tensor, "N"],
        deterministic: bool = False,
    ) -> Act:
        """One time step: sample an action (or take the most likely one)."""
        features, _, state = self._both("step_features", obs, state, start)
        actor = self.actor(features)
        return Act(actor.mode() if deterministic else actor.sample(), state)

    def decide(self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "N"]) -> Decision:
        """One time step: a sampled action, its log-probability and the value."""
        features, seen, state = self._both("step_features", obs, state, start)
        actor = self.actor(features)
        action = actor.sample()
        return Decision(action, actor.log_prob(action), self.critic(seen), state)

    def value(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "N"]
    ) -> Float[Tensor, "N"]:
        """One time step of the critic alone; the state is read and not advanced."""
        if self.critic_trunk is None:
            return self.critic(self.step_features(obs, state, start)[0])
        return self.critic(self.critic_trunk.step_features(obs, state[1], start)[0])

    def forward(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "B T"]
    ) -> tuple[Joint, Float[Tensor, "B T"]]:
        """A row of time steps [B, T, ...]: distributions over actions, and values."""
        features, seen, _ = self._both("scan_features", obs, state, start)
        return self.actor(features), self.critic(seen)

    def _both(
        self, method: str, obs: dict[str, Tensor], state: Any, start: Tensor
    ) -> tuple[Tensor, Tensor, Any]:
        """What the actor and what the critic reads, and the memory after it."""
        if self.critic_trunk is None:
            features, state = getattr(self, method)(obs, state, start)
            return features, features, state
        features, own = getattr(self, method)(obs, state[0], start)
        seen, other = getattr(self.critic_trunk, method)(obs, state[1], start)
        return features, seen, (own, other)
