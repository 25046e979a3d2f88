"""An agent that remembers: encoder, memory core, actor and critic."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlmem import cores
from rlmem.errors import UsageError, positive
from rlmem.policies.distributions import Joint
from rlmem.policies.encoders import Encoder
from rlmem.policies.heads import Actor, Critic


class Act(NamedTuple):
    """What an agent does at one time step, for N environments."""

    action: dict[str, Tensor]
    log_prob: Float[Tensor, "N"]
    value: Float[Tensor, "N"]
    state: Any


class Policy(nn.Module):
    """Actor and critic over one shared memory.

    `core` is the name of a memory core and `core_options` what its constructor takes beside the
    sizes; `layers` > 1 stacks it in residual pre-norm blocks.
    """

    def __init__(
        self,
        observation_space: dict[str, gym.Space],
        action_space: dict[str, gym.Space],
        core: str = "ffm",
        core_options: dict[str, Any] | None = None,
        hidden_size: int = 128,
        layers: int = 1,
        encoder_layers: int = 1,
        head_layers: int = 1,
        activation: str = "leaky_relu",
    ) -> None:
        super().__init__()
        positive("hidden_size", hidden_size)
        if positive("layers", layers) > 1:
            core_options = {"core": core, "layers": layers, "options": core_options}
            core = "stack"
        if head_layers < 0:
            raise UsageError(f"head_layers must be at least 0, not {head_layers}")
        self.encoder = Encoder(
            observation_space, hidden_size, positive("encoder_layers", encoder_layers), activation
        )
        self.core = cores.make(
            core, input_size=hidden_size, output_size=hidden_size, **(core_options or {})
        )
        self.actor = Actor(action_space, hidden_size, head_layers, activation)
        self.critic = Critic(hidden_size, head_layers, activation)

    def initial_state(self, batch_size: int) -> Any:
        """The memory before an episode's first observation."""
        return self.core.initial_state(batch_size)

    def act(
        self,
        obs: dict[str, Tensor],
        state: Any,
        start: Bool[Tensor, "N"],
        deterministic: bool = False,
    ) -> Act:
        """One time step: sample an action (or take the most likely one)."""
        features, state = self.core.step(self.encoder(obs), state, start)
        actor = self.actor(features)
        action = actor.mode() if deterministic else actor.sample()
        return Act(action, actor.log_prob(action), self.critic(features), state)

    def value(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "N"]
    ) -> Float[Tensor, "N"]:
        """One time step of the critic alone; the state is read and not advanced."""
        features, _ = self.core.step(self.encoder(obs), state, start)
        return self.critic(features)

    def forward(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "B T"]
    ) -> tuple[Joint, Float[Tensor, "B T"]]:
        """A row of time steps [B, T, ...]: distributions over actions, and values."""
        features, _ = self.core.scan(self.encoder(obs), state, start)
        return self.actor(features), self.critic(features)
