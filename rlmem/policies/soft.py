"""The policy of soft actor-critic: an actor and several critics over one memory.

An action has a discrete part d, one of `n` joint actions, and a continuous part c, a vector of
size k; most action spaces have only one of them. The actor samples them independently,
`pi(d, c) = pi(d) pi(c)`. Every critic reads c and returns a value for each d, so the expectation
over d is exact and that over c uses one sample (Delalleau et al. 2019, arXiv 1912.11077). With
k = 0 this is the discrete soft actor-critic, with n = 1 the continuous one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

from rlmem.errors import positive
from rlmem.policies.action_space import DISCRETE, HybridActions
from rlmem.policies.continuous import ContinuousDistribution
from rlmem.policies.encoders import mlp
from rlmem.policies.heads import Actor, Categorical, linear
from rlmem.policies.policy import Act, Policy
from rlmem.spaces.action_mask import Legal

# Gain of the critics' last layers: the first values are near 0.
GAIN = 0.01


class ActorOutput(NamedTuple):
    """The actor's output: log-probabilities of all discrete actions, one continuous sample.

    `continuous` is in units of half the range (see `Continuous`), `log_density` is the logarithm of
    its density in these units; both are differentiable.
    """

    log_p: Float[Tensor, "*N n"]
    continuous: Float[Tensor, "*N k"]
    log_density: Float[Tensor, "*N"]

    def entropy(self) -> Float[Tensor, "*N 2"]:
        """The entropies: exact for the discrete part, estimated from the sample for the other."""
        discrete = -(self.log_p.exp() * self.log_p).sum(dim=-1)
        return torch.stack([discrete, -self.log_density], dim=-1)

    def value(self, q: Float[Tensor, "*N n"], alpha: Float[Tensor, "2"]) -> Float[Tensor, "*N"]:
        """SAC's objective, `sum_d pi(d) (Q(c, d) - alpha_d log pi(d)) - alpha_c log pi(c)`."""
        return (self.log_p.exp() * q).sum(dim=-1) + self.entropy() @ alpha


class SoftCritics(nn.Module):
    """`count` critics: features [*N, H], continuous actions [*N, k] to values of `n` actions.

    If k > 0 there is at least one hidden layer: without one, values would be linear in the
    continuous action.
    """

    def __init__(
        self, count: int, input_size: int, k: int, n: int, layers: int, activation: str
    ) -> None:
        super().__init__()
        sizes = [input_size + k] + [input_size] * (max(layers, 1) if k else layers)
        self.critics = nn.ModuleList(
            nn.Sequential(*mlp(sizes, activation), linear(sizes[-1], n, GAIN)) for _ in range(count)
        )

    def forward(
        self, features: Float[Tensor, "*N H"], continuous: Float[Tensor, "*N k"]
    ) -> Float[Tensor, "count *N n"]:
        x = torch.cat([features, continuous.to(features.dtype)], dim=-1)
        return torch.stack([critic(x) for critic in self.critics]).float()


class SoftPolicy(Policy):
    """Actor and critics over one memory; takes the options of `Policy`, and `num_critics`.

    Raises `UsageError` if there are too many joint discrete actions to sum over.
    """

    def __init__(
        self,
        observation_space: dict[str, gym.Space],
        action_space: dict[str, gym.Space],
        num_critics: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(observation_space, action_space, **options)
        self.actions = HybridActions(action_space)
        self.discrete, self.continuous = self.actions.discrete, self.actions.continuous
        n, k = self.actions.n, self.actions.k
        heads = self.head_layers, self.activation
        self.actor = Actor(self.actions.actor_spaces, self.hidden_size, *heads, state_std=True)
        self.critics = SoftCritics(
            positive("num_critics", num_critics), self.hidden_size, k, n, *heads
        )

    def act(
        self,
        obs: dict[str, Tensor],
        state: Any,
        start: Bool[Tensor, "N"],
        deterministic: bool = False,
    ) -> Act:
        """One time step: sample an action (or take the actor's most likely one)."""
        features, state = self.core.step(self.encoder.encode_step(obs, start), state, start)
        actor = self.actor(features, self.legal(obs))
        sample = actor.mode() if deterministic else actor.sample()

        def log_prob(action: dict[str, Tensor]) -> Tensor:
            return actor.log_prob(self.actions.parts(action))

        return Act(self.actions.action(sample), state, actor.tensors, log_prob)

    def value(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "N"]
    ) -> Float[Tensor, "N"]:
        """The smallest critic's value, without the entropy: the mean over discrete actions.

        The continuous ones are the most likely. Reads the state without advancing it.
        """
        x = self.encoder.encode_step(obs, start)
        features = self.core.step(x, state, start)[0]
        actor = self.actor(features, self.legal(obs))
        q = self.values(features, self.actions.action(actor.mode())).amin(dim=0)
        discrete = actor.parts.get(DISCRETE)
        if not isinstance(discrete, Categorical):
            return q.squeeze(-1)
        return (discrete.log_p.exp() * q).sum(dim=-1)

    def legal(self, obs: dict[str, Tensor]) -> dict[str, Legal] | None:
        """The legal joint discrete actions; None without a mask."""
        return None if self.mask is None else self.actions.legal(self.mask(obs))

    def actor_output(
        self, features: Float[Tensor, "*N H"], legal: dict[str, Legal] | None = None
    ) -> ActorOutput:
        """The actor's output for some features; no gradient reaches the features."""
        parts = self.actor(features.detach(), legal).parts
        zero = features.new_zeros(*features.shape[:-1], 1, dtype=torch.float32)
        discrete = parts.get(DISCRETE)
        log_p = discrete.log_p if isinstance(discrete, Categorical) else zero
        if self.continuous is None:
            return ActorOutput(log_p, zero[..., :0], zero.squeeze(-1))
        sample, log_probs = {}, []
        for key in self.continuous.keys:
            part = parts[key]
            assert isinstance(part, ContinuousDistribution)
            sample[key], log_prob = part.draw()
            log_probs.append(log_prob)
        log_density = torch.stack(log_probs).sum(dim=0) + self.continuous.log_unit_volume
        return ActorOutput(log_p, self.continuous(sample), log_density)

    def values(
        self, features: Float[Tensor, "*N H"], action: dict[str, Tensor]
    ) -> Float[Tensor, "count *N n"]:
        """The critics' values of all n discrete actions with the continuous part of `action`."""
        empty = features[..., :0]
        return self.critics(features, empty if self.continuous is None else self.continuous(action))

    def judge(
        self, features: Float[Tensor, "*N H"], actor: ActorOutput
    ) -> Float[Tensor, "count *N n"]:
        """The critics' values of the actor's output, with gradients for its actions only."""
        fixed = {name: weight.detach() for name, weight in self.critics.named_parameters()}
        return functional_call(self.critics, fixed, (features.detach(), actor.continuous))

    def chosen(
        self, q: Float[Tensor, "count *N n"], action: dict[str, Tensor]
    ) -> Float[Tensor, "count *N"]:
        """The entries of `values` that belong to the discrete part of `action`."""
        if self.discrete is None:
            return q.squeeze(-1)
        index = self.discrete.index(action).expand(q.shape[:-1])
        return q.gather(-1, index.unsqueeze(-1)).squeeze(-1)
