"""The policy of on-policy actor-critic algorithms: actor and critic over one memory or two."""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlmem.policies.heads import Actor, Critic, Joint
from rlmem.policies.policy import Act, Policy, Trunk


class PolicyStep(NamedTuple):
    """One step of a policy: action, log-probability, value, and the next memory state."""

    action: dict[str, Tensor]
    log_prob: Float[Tensor, "N"]
    value: Float[Tensor, "N"]
    state: Any


class ActorCritic(Policy):
    """Actor and critic over one shared memory, or over one each (`separate_critic`).

    Takes the options of `Policy`. With two memories the state is a pair, the actor's first.
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
        for name in ("head_layers", "action_mask"):
            options.pop(name, None)
        # The observations but for a mask of the actions.
        inputs = self.encoder.spaces
        self.critic_trunk = Trunk(inputs, **options) if separate_critic else None

    def initial_state(self, batch_size: int) -> Any:
        """The memory before an episode's first observation."""
        state = super().initial_state(batch_size)
        if self.critic_trunk is None:
            return state
        return state, self.critic_trunk.initial_state(batch_size)

    def critic_parameters(self) -> list[nn.Parameter]:
        """Parameters of the critic alone; none if it shares the actor's memory."""
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
        features, _, state = self._step(obs, state, start)
        actor = self._actor(features, obs)
        return Act(actor.mode() if deterministic else actor.sample(), state, actor.tensors)

    def act_with_value(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "N"]
    ) -> PolicyStep:
        """One time step: a sampled action, its log-probability and the value."""
        features, critic_features, state = self._step(obs, state, start)
        actor = self._actor(features, obs)
        action = actor.sample()
        return PolicyStep(action, actor.log_prob(action), self.critic(critic_features), state)

    def value(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "N"]
    ) -> Float[Tensor, "N"]:
        """The value at one time step; reads the state without advancing it."""
        trunk: Trunk = self
        if self.critic_trunk is not None:
            trunk, state = self.critic_trunk, state[1]
        x = trunk.encoder.encode_step(obs, start)
        return self.critic(trunk.core.step(x, state, start)[0])

    def forward(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "B T"]
    ) -> tuple[Joint, Float[Tensor, "B T"]]:
        """A row of time steps [B, T, ...]: distributions over actions, and values."""
        trunk, x = self.critic_trunk, self.encoder.encode_row(obs, start)
        if trunk is None:
            features, _ = self.core.scan(x, state, start)
            return self._actor(features, obs), self.critic(features)
        features, _ = self.core.scan(x, state[0], start)
        critic_features, _ = trunk.core.scan(trunk.encoder(obs), state[1], start)
        return self._actor(features, obs), self.critic(critic_features)

    def _actor(self, features: Float[Tensor, "*N H"], obs: dict[str, Tensor]) -> Joint:
        """The distributions over the legal actions of the observations."""
        return self.actor(features, None if self.mask is None else self.mask(obs))

    def _step(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "N"]
    ) -> tuple[Float[Tensor, "N H"], Float[Tensor, "N H"], Any]:
        """Features of actor and critic at one time step, and the next state."""
        trunk, x = self.critic_trunk, self.encoder.encode_step(obs, start)
        if trunk is None:
            features, state = self.core.step(x, state, start)
            return features, features, state
        features, actor_state = self.core.step(x, state[0], start)
        critic_features, critic_state = trunk.core.step(trunk.encoder(obs), state[1], start)
        return features, critic_features, (actor_state, critic_state)
