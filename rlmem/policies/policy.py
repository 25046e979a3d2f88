"""Encoder and memory core of every policy; each algorithm adds its heads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
from jaxtyping import Bool
from torch import Tensor, nn

from rlmem import cores
from rlmem.action_mask import ActionMask
from rlmem.errors import UsageError, positive
from rlmem.policies.encoders import Encoder


class Act(NamedTuple):
    """The actions [N, ...] at one time step, and the next memory state.

    `outputs` computes the tensors [N, ...] that the actions were chosen by: `logits` of discrete
    actions, `mean` and `log_std` of Gaussians, or the values `q`.
    """

    action: dict[str, Tensor]
    state: Any
    outputs: Callable[[], dict[str, Tensor]] = dict


class Trunk(nn.Module):
    """Encoder and memory core: observations to features of size `hidden_size` for the heads.

    `core` is the name of a memory core, `core_options` are its constructor's arguments other than
    the sizes. `layers` > 1 stacks the core in residual pre-norm blocks.
    """

    def __init__(
        self,
        observation_space: dict[str, gym.Space],
        core: str = "ffm",
        core_options: dict[str, Any] | None = None,
        hidden_size: int = 128,
        layers: int = 1,
        encoder_layers: int = 1,
        activation: str = "leaky_relu",
    ) -> None:
        super().__init__()
        positive("hidden_size", hidden_size)
        if positive("layers", layers) > 1:
            core_options = {"core": core, "layers": layers, "options": core_options}
            core = "stack"
        self.hidden_size = hidden_size
        self.encoder = Encoder(
            observation_space, hidden_size, positive("encoder_layers", encoder_layers), activation
        )
        self.core = cores.make(
            core, input_size=hidden_size, output_size=hidden_size, **(core_options or {})
        )

    def initial_state(self, batch_size: int) -> Any:
        """The memory before an episode's first observation."""
        return self.core.initial_state(batch_size)


def describe_inputs(policy: Policy) -> str:
    """How a policy reads its observations: one line for each leaf."""
    lines = policy.encoder.describe()
    if policy.mask is not None:
        lines |= policy.mask.describe()
    return "\n".join(f"{key}: {text}" for key, text in lines.items())


class Policy(Trunk, ABC):
    """An encoder and a memory core; a subclass adds heads and implements `act`.

    `head_layers` is the depth of the heads, `activation` that of encoder and heads; the other
    options are those of `Trunk`. With `action_mask`, observations may have a mask of the actions
    (see `rlmem.action_mask`): the policy's distributions, its values' maximum and its exploration
    are over legal actions, and the mask is not an input of the encoder.
    """

    def __init__(
        self,
        observation_space: dict[str, gym.Space],
        action_space: dict[str, gym.Space],
        head_layers: int = 1,
        activation: str = "leaky_relu",
        action_mask: bool = True,
        **options: Any,
    ) -> None:
        mask = ActionMask.find(observation_space, action_space) if action_mask else None
        inputs = observation_space if mask is None else mask.others(observation_space)
        super().__init__(inputs, activation=activation, **options)
        self.mask = mask
        if head_layers < 0:
            raise UsageError(f"head_layers must be at least 0, not {head_layers}")
        self.action_space = action_space
        self.head_layers = head_layers
        self.activation = activation

    def critic_parameters(self) -> list[nn.Parameter]:
        """Parameters that only the critic trains; none if it shares the actor's memory."""
        return []

    @abstractmethod
    def act(
        self,
        obs: dict[str, Tensor],
        state: Any,
        start: Bool[Tensor, "N"],
        deterministic: bool = False,
    ) -> Act:
        """One time step: sample an action (or take the best one)."""
