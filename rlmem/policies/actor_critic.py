"""The policy of on-policy actor-critic algorithms: actor and critic over one memory or two."""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlmem.policies.encoders import Encoder
from rlmem.policies.forecast import Forecast
from rlmem.policies.heads import Actor, Critic, Joint
from rlmem.policies.normalizer import RunningMoments
from rlmem.policies.policy import Act, Policy, Trunk


class PolicyStep(NamedTuple):
    """One step of a policy: action, log-probability, value, and the next memory state."""

    action: dict[str, Tensor]
    log_prob: Float[Tensor, "N"]
    value: Float[Tensor, "N"]
    state: Any


class Row(NamedTuple):
    """A row of time steps: distributions over actions, values, and the features of the memory."""

    actor: Joint
    value: Float[Tensor, "B T"]
    features: Float[Tensor, "B T H"]


class ActorCritic(Policy):
    """Actor and critic over one shared memory, or over one each (`separate_critic`).

    Takes the options of `Policy`. With two memories the state is a pair, the actor's first. The
    leaves in `critic_only` are inputs of the critic's own memory, or else of the critic, next to
    the features of the shared memory. `act` needs none of them; without them the state of the
    critic's memory stays as it is. `normalize_reward` keeps the statistics of the returns, which
    the algorithm updates. `predict_obs` and `predict_reward`, the weights of auxiliary losses, add
    their heads (see `Forecast`).
    """

    has_privileged_critic = True

    def __init__(
        self,
        observation_space: dict[str, Any],
        action_space: dict[str, Any],
        separate_critic: bool = False,
        normalize_reward: bool = False,
        predict_obs: float = 0.0,
        predict_reward: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(observation_space, action_space, **options)
        self.actor = Actor(action_space, self.hidden_size, self.head_layers, self.activation)
        self.critic = Critic(self.hidden_size, self.head_layers, self.activation)
        for name in ("head_layers", "action_mask", "critic_only"):
            options.pop(name, None)
        # The critic reads all observations but for a mask of the actions.
        inputs = observation_space if self.mask is None else self.mask.others(observation_space)
        self.critic_trunk = Trunk(inputs, **options) if separate_critic else None
        shared = not separate_critic
        self.critic_input = self.privileged_features(observation_space) if shared else None
        self.reward_moments = RunningMoments(1) if normalize_reward else None
        self.forecast = (
            Forecast(self.encoder, action_space, self.hidden_size, self.activation)
            if predict_obs or predict_reward
            else None
        )

    @property
    def critic_encoder(self) -> Encoder | None:
        """The encoder of the leaves that only the critic reads; None if there are none."""
        if self.critic_trunk is not None and self.critic_only:
            return self.critic_trunk.encoder
        return None if self.critic_input is None else self.critic_input.encoder

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
        sees_all = all(key in obs for key in self.critic_only)
        features, _, state = self._step(obs, state, start, with_critic=sees_all)
        actor = self._actor(features, obs)
        action = actor.mode() if deterministic else actor.sample()
        return Act(action, state, actor.tensors, actor.log_prob)

    def act_with_value(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "N"]
    ) -> PolicyStep:
        """One time step: a sampled action, its log-probability and the value."""
        features, critic_features, state = self._step(obs, state, start)
        actor = self._actor(features, obs)
        action = actor.sample()
        value = self.critic(self._critic_features(critic_features, obs))
        return PolicyStep(action, actor.log_prob(action), value, state)

    def value(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "N"]
    ) -> Float[Tensor, "N"]:
        """The value at one time step; reads the state without advancing it."""
        trunk: Trunk = self
        if self.critic_trunk is not None:
            trunk, state = self.critic_trunk, state[1]
        x = trunk.encoder.encode_step(obs, start)
        features = trunk.core.step(x, state, start)[0]
        return self.critic(self._critic_features(features, obs))

    def forward(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "B T"]
    ) -> tuple[Joint, Float[Tensor, "B T"]]:
        """A row of time steps [B, T, ...]: distributions over actions, and values."""
        return self.row(obs, state, start)[:2]

    def row(self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "B T"]) -> Row:
        """As `forward`, with the features of the actor's memory."""
        trunk, x = self.critic_trunk, self.encoder.encode_row(obs, start)
        if trunk is None:
            features, _ = self.core.scan(x, state, start)
            value = self.critic(self._critic_features(features, obs))
            return Row(self._actor(features, obs), value, features)
        features, _ = self.core.scan(x, state[0], start)
        x = trunk.encoder.encode_row(obs, start)
        critic_features, _ = trunk.core.scan(x, state[1], start)
        return Row(self._actor(features, obs), self.critic(critic_features), features)

    def _actor(self, features: Float[Tensor, "*N H"], obs: dict[str, Tensor]) -> Joint:
        """The distributions over the legal actions of the observations."""
        return self.actor(features, None if self.mask is None else self.mask(obs))

    def _step(
        self,
        obs: dict[str, Tensor],
        state: Any,
        start: Bool[Tensor, "N"],
        with_critic: bool = True,
    ) -> tuple[Float[Tensor, "N H"], Float[Tensor, "N H"], Any]:
        """Features of actor and critic at one time step, and the next state.

        Without the critic, its features are the actor's, and the state of its memory stays.
        """
        trunk, x = self.critic_trunk, self.encoder.encode_step(obs, start)
        if trunk is None:
            features, state = self.core.step(x, state, start)
            return features, features, state
        features, actor_state = self.core.step(x, state[0], start)
        if not with_critic:
            return features, features, (actor_state, state[1])
        x = trunk.encoder.encode_step(obs, start)
        critic_features, critic_state = trunk.core.step(x, state[1], start)
        return features, critic_features, (actor_state, critic_state)

    def _critic_features(
        self, features: Float[Tensor, "*N H"], obs: dict[str, Tensor]
    ) -> Float[Tensor, "*N H"]:
        """The critic's input, from the features of its memory."""
        return features if self.critic_input is None else self.critic_input(features, obs)
