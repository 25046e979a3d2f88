"""Policies that are sequence models: they predict the next action from the history so far.

One time step of the model is one of the environment: it reads the observation, the previous action
and the previous reward, and returns a distribution over actions. Any memory core can be the model.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlmem.policies.encoders import check_batch
from rlmem.policies.heads import Actor, Joint
from rlmem.policies.policy import Act, Policy
from rlmem.spaces.action_mask import Legal
from rlmem.spaces.discrete import first_values
from rlmem.spaces.unit_box import UnitBox

PAST = "previous_"
RETURN = "return_to_go"
NUMBER = UnitBox(-np.inf, np.inf, (), np.float32)


class SequencePolicy(Policy):
    """An actor over a memory that reads previous actions and rewards; takes `Policy`'s options.

    Observations come from environments in `Trials`. The model reads all leaves that `Trials` adds
    except `episode`: recorded data may not contain an episode's position in its trial. At a start
    the leaves `previous_*` are replaced by zeros, or by the first values of discrete actions.
    """

    def __init__(
        self,
        observation_space: dict[str, gym.Space],
        action_space: dict[str, gym.Space],
        **options: Any,
    ) -> None:
        past = {
            **{PAST + key: space for key, space in action_space.items()},
            PAST + "reward": observation_space.get(PAST + "reward", NUMBER),
            PAST + "done": gym.spaces.Discrete(2),
        }
        added = {*past, "start", "episode"}
        self.task = [key for key in observation_space if key not in added]
        self.past = {key: _first(space) for key, space in past.items()}
        inputs = {key: observation_space[key] for key in self.task} | past
        inputs |= {"start": gym.spaces.Discrete(2)} | self.extra_inputs()
        super().__init__(inputs, action_space, **options)
        self.read = {k: tuple(inputs[k].shape or ()) for k in (*self.task, *self.past)}
        self.actor = Actor(action_space, self.hidden_size, self.head_layers, self.activation)

    def extra_inputs(self) -> dict[str, gym.Space]:
        """Spaces of further model inputs, for subclasses."""
        return {}

    def act(
        self,
        obs: dict[str, Tensor],
        state: Any,
        start: Bool[Tensor, "N"],
        deterministic: bool = False,
    ) -> Act:
        """One time step: sample an action (or take the most likely one)."""
        check_batch(self.read, obs, start, "N")
        features, state = self.core.step(self.encoder(self.model_inputs(obs, start)), state, start)
        actor = self.actor(features, self._legal(obs))
        action = actor.mode() if deterministic else actor.sample()
        return Act(action, state, actor.tensors, actor.log_prob)

    def forward(self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "B T"]) -> Joint:
        """A row of time steps [B, T, ...]: distributions over actions."""
        check_batch(self.read, obs, start, "B T")
        x = self.encoder(self.model_inputs(obs, start))
        return self.actor(self.core.scan(x, state, start)[0], self._legal(obs))

    def _legal(self, obs: dict[str, Tensor]) -> dict[str, Legal] | None:
        return None if self.mask is None else self.mask(obs)

    def model_inputs(self, obs: dict[str, Tensor], start: Bool[Tensor, "*N"]) -> dict[str, Tensor]:
        """The model's inputs from observations [*N, ...] and starts."""
        inputs = {key: obs[key] for key in self.task}
        for key, first in self.past.items():
            leaf = obs[key]
            mask = start.reshape(start.shape + (1,) * (leaf.dim() - start.dim()))
            if first is None:
                inputs[key] = leaf.masked_fill(mask, 0)
            else:
                inputs[key] = torch.where(mask, leaf.new_tensor(first), leaf)
        return inputs | {"start": start.long()}


def _first(space: gym.Space) -> list[Any] | int | None:
    """The first value of each entry of a discrete space, nested in its shape; None if all are 0."""
    if isinstance(space, gym.spaces.Box) or not any(first_values(space)):
        return None
    return np.reshape(first_values(space), space.shape or ()).tolist()


class ReturnState(NamedTuple):
    """The core's state, and the return to go at the last time step."""

    memory: Any
    return_to_go: Float[Tensor, "N"]


class ReturnPolicy(SequencePolicy):
    """A `SequencePolicy` conditioned on the return to go; takes the options of `Policy`.

    The return to go is `target_return` minus the rewards so far; the model reads it divided by
    `return_scale`. The algorithm sets both; they are saved with the weights.
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
        self.read[RETURN] = ()
        self.register_buffer("target_return", torch.zeros(()))
        self.register_buffer("return_scale", torch.ones(()))

    def extra_inputs(self) -> dict[str, gym.Space]:
        """The space of the return to go."""
        return {RETURN: NUMBER}

    def initial_state(self, batch_size: int) -> ReturnState:
        """The state before an episode's first observation."""
        return ReturnState(super().initial_state(batch_size), self.target_return.expand(batch_size))

    def act(
        self,
        obs: dict[str, Tensor],
        state: ReturnState,
        start: Bool[Tensor, "N"],
        deterministic: bool = False,
    ) -> Act:
        """One time step: sample an action (or take the most likely one)."""
        check_batch({PAST + "reward": ()}, obs, start, "N")
        remaining = state.return_to_go - obs[PAST + "reward"]
        to_go = torch.where(start, self.target_return, remaining)
        act = super().act({**obs, RETURN: to_go}, state.memory, start, deterministic)
        return act._replace(state=ReturnState(act.state, to_go))

    def model_inputs(self, obs: dict[str, Tensor], start: Bool[Tensor, "*N"]) -> dict[str, Tensor]:
        """The model's inputs from observations [*N, ...], their `return_to_go` and starts."""
        return super().model_inputs(obs, start) | {RETURN: obs[RETURN] / self.return_scale}
