"""Agents that are models of sequences: what was seen, done and got so far, and what is done next.

One time step of the model is one of the environment: it reads the observation, the action and the
reward before it, and says how likely each action is. Any memory core is such a model.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlmem.policies.distributions import Joint
from rlmem.policies.heads import Actor
from rlmem.policies.policy import Act, Policy

PAST = "previous_"
RETURN = "return_to_go"
NUMBER = gym.spaces.Box(-np.inf, np.inf, (), np.float32)


class SequencePolicy(Policy):
    """An actor over a memory that reads the past; takes what `Policy` takes.

    The observations are those of environments in `Trials`: of the leaves that it adds all are read
    but `episode`, as data need not tell where in a trial it is from. Where a row starts there is
    no past: the leaves `previous_*` are zeros there, whatever they hold.
    """

    def __init__(
        self,
        observation_space: dict[str, gym.Space],
        action_space: dict[str, gym.Space],
        **options: Any,
    ) -> None:
        past = {
            **{PAST + key: space for key, space in action_space.items()},
            PAST + "reward": NUMBER,
            PAST + "done": gym.spaces.Discrete(2),
        }
        added = {*past, "start", "episode"}
        self.task = [key for key in observation_space if key not in added]
        self.past = list(past)
        seen = {key: observation_space[key] for key in self.task} | past
        super().__init__(
            seen | {"start": gym.spaces.Discrete(2)} | self.extra(), action_space, **options
        )
        self.actor = Actor(action_space, self.hidden_size, self.head_layers, self.activation)

    def extra(self) -> dict[str, gym.Space]:
        """What else the model reads."""
        return {}

    def act(
        self,
        obs: dict[str, Tensor],
        state: Any,
        start: Bool[Tensor, "N"],
        deterministic: bool = False,
    ) -> Act:
        """One time step: sample an action (or take the most likely one)."""
        features, state = self.step_features(self.look(obs, start), state, start)
        actor = self.actor(features)
        return Act(actor.mode() if deterministic else actor.sample(), state)

    def forward(self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "B T"]) -> Joint:
        """A row of time steps [B, T, ...]: distributions over actions."""
        return self.actor(self.scan_features(self.look(obs, start), state, start)[0])

    def look(self, obs: dict[str, Tensor], start: Bool[Tensor, "*N"]) -> dict[str, Tensor]:
        """What the model reads of observations [*N, ...]."""
        seen = {key: obs[key] for key in self.task}
        for key in self.past:
            leaf = obs[key]
            none = start.reshape(start.shape + (1,) * (leaf.dim() - start.dim()))
            seen[key] = leaf.masked_fill(none, 0)
        return seen | {"start": start.long()}


class Conditioned(NamedTuple):
    """The memory, and the return that is still to be had."""

    memory: Any
    return_to_go: Float[Tensor, "N"]


class ReturnPolicy(SequencePolicy):
    """A `SequencePolicy` that is told the return to reach; takes what `Policy` takes.

    It plays for `target_return`, less what it has got already, and reads that as a share of
    `return_scale`; both are saved with the weights and set by the algorithm.
    """

    target_return: Tensor
    return_scale: Tensor

    def __init__(
        self,
        observation_space: dict[str, gym.Space],
        action_space: dict[str, gym.Space],
        **options: Any,
    ) -> None:
        super().__init__(observation_space, action_space, **options)
        self.register_buffer("target_return", torch.zeros(()))
        self.register_buffer("return_scale", torch.ones(()))

    def extra(self) -> dict[str, gym.Space]:
        """The return to go."""
        return {RETURN: NUMBER}

    def initial_state(self, batch_size: int) -> Conditioned:
        """The memory before an episode's first observation."""
        return Conditioned(super().initial_state(batch_size), self.target_return.expand(batch_size))

    def act(
        self,
        obs: dict[str, Tensor],
        state: Conditioned,
        start: Bool[Tensor, "N"],
        deterministic: bool = False,
    ) -> Act:
        """One time step: sample an action (or take the most likely one)."""
        left = state.return_to_go - obs[PAST + "reward"]
        to_go = torch.where(start, self.target_return, left)
        act = super().act({**obs, RETURN: to_go}, state.memory, start, deterministic)
        return Act(act.action, Conditioned(act.state, to_go))

    def look(self, obs: dict[str, Tensor], start: Bool[Tensor, "*N"]) -> dict[str, Tensor]:
        """What the model reads of observations [*N, ...] with their `return_to_go`."""
        return super().look(obs, start) | {RETURN: obs[RETURN] / self.return_scale}
