"""Encoder and memory core of every policy; each algorithm adds its heads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
from jaxtyping import Bool
from torch import Tensor, nn

from rlmem import cores
from rlmem.errors import UsageError, positive
from rlmem.policies.encoders import Encoder
from rlmem.policies.encoders.choice import Choice, make_encoder
from rlmem.policies.normalizer import LARGE, make_normalizer
from rlmem.policies.privileged import PrivilegedFeatures, critic_only_leaves
from rlmem.spaces.action_mask import ActionMask


class Act(NamedTuple):
    """The actions [N, ...] at one time step, and the next memory state.

    `outputs` computes the tensors [N, ...] that the actions were chosen by: `logits` of discrete
    actions, `mean` and `log_std` of Gaussians, or the values `q`. `preference` computes how much
    the policy prefers given actions: their log-probabilities [N], or, of a policy of values, their
    advantages over the mean of all actions.
    """

    action: dict[str, Tensor]
    state: Any
    outputs: Callable[[], dict[str, Tensor]] = dict
    preference: Callable[[dict[str, Tensor]], Tensor] | None = None


class Trunk(nn.Module):
    """Encoder and memory core: observations to features of size `hidden_size` for the heads.

    `core` is the name of a memory core, `core_options` are its constructor's arguments other than
    the sizes. `layers` > 1 stacks the core in residual pre-norm blocks. `encoder` is a name, a
    `MODULE:NAME`, a class or a module, `encoder_options` are its constructor's arguments other than
    the sizes (see `make_encoder`). `normalize_obs` says which leaves are normalised (see
    `normalized_leaves`), and `clip_obs` bounds them then. With `checkpoint_segments`, rows of more
    steps keep the memory's state after each so many steps only, for the backward pass.
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
        encoder: Choice = "default",
        encoder_options: Mapping[str, Any] | None = None,
        normalize_obs: bool | str = "auto",
        clip_obs: float | None = LARGE,
        checkpoint_segments: int | None = None,
    ) -> None:
        super().__init__()
        positive("hidden_size", hidden_size)
        if positive("layers", layers) > 1:
            core_options = {"core": core, "layers": layers, "options": core_options}
            core = "stack"
        self.hidden_size = hidden_size
        self.encoder = make_encoder(
            encoder,
            observation_space,
            hidden_size,
            positive("encoder_layers", encoder_layers),
            activation,
            encoder_options,
        )
        self.encoder.normalizer = make_normalizer(observation_space, normalize_obs, clip_obs)
        self.normalize_obs, self.clip_obs = normalize_obs, clip_obs
        self.core = cores.make(
            core, input_size=hidden_size, output_size=hidden_size, **(core_options or {})
        )
        if checkpoint_segments is not None:
            positive("checkpoint_segments", checkpoint_segments)
            self.core.checkpoint_segments = checkpoint_segments

    def initial_state(self, batch_size: int) -> Any:
        """The memory before an episode's first observation."""
        return self.core.initial_state(batch_size)


class Policy(Trunk, ABC):
    """An encoder and a memory core; a subclass adds heads and implements `act`.

    `head_layers` is the depth of the heads, `activation` that of encoder and heads. With
    `action_mask`, observations may have a mask of the actions (see `rlmem.spaces.action_mask`): the
    policy's distributions, its values' maximum and its exploration are over legal actions, and the
    mask is not an input of the encoder. `critic_only` names the leaves that only a critic reads
    (None: those named `privileged`); they must be absent or the policy have such a critic. The
    other options are those of `Trunk`.
    """

    # Whether the policy has a critic that may read leaves that the actor does not.
    has_privileged_critic: ClassVar[bool] = False

    def __init__(
        self,
        observation_space: dict[str, gym.Space],
        action_space: dict[str, gym.Space],
        head_layers: int = 1,
        activation: str = "leaky_relu",
        action_mask: bool = True,
        critic_only: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        hidden = critic_only_leaves(observation_space, critic_only, self.has_privileged_critic)
        mask = ActionMask.find(observation_space, action_space) if action_mask else None
        inputs = observation_space if mask is None else mask.others(observation_space)
        seen = {key: space for key, space in inputs.items() if key not in hidden}
        super().__init__(seen, activation=activation, **options)
        self.mask = mask
        self.critic_only = hidden
        if head_layers < 0:
            raise UsageError(f"head_layers must be at least 0, not {head_layers}")
        self.action_space = action_space
        self.head_layers = head_layers
        self.activation = activation

    @property
    def critic_encoder(self) -> Encoder | None:
        """The encoder of the leaves that only the critic reads; None if there are none."""
        return None

    def critic_parameters(self) -> list[nn.Parameter]:
        """Parameters that only the critic trains; none if it shares the actor's memory."""
        return []

    def privileged_features(
        self, observation_space: dict[str, gym.Space]
    ) -> PrivilegedFeatures | None:
        """The input of a critic over the shared memory; None if it is the memory's features."""
        if not self.critic_only:
            return None
        spaces = {key: observation_space[key] for key in self.critic_only}
        normalizer = make_normalizer(spaces, self.normalize_obs, self.clip_obs)
        return PrivilegedFeatures(spaces, self.hidden_size, self.activation, normalizer)

    @abstractmethod
    def act(
        self,
        obs: dict[str, Tensor],
        state: Any,
        start: Bool[Tensor, "N"],
        deterministic: bool = False,
    ) -> Act:
        """One time step: sample an action (or take the best one)."""


def describe_inputs(policy: Policy) -> str:
    """How a policy reads its observations: one line for each leaf."""
    texts = policy.encoder.describe()
    if policy.critic_encoder is not None:
        found = policy.critic_encoder.describe()
        texts |= {key: f"{found[key]}, critic only" for key in policy.critic_only}
    if policy.mask is not None:
        texts |= policy.mask.describe()
    return "\n".join(f"{key}: {text}" for key, text in texts.items())
