"""The agent of soft actor-critic: an actor, and several critics of its actions, over one memory.

An action has a discrete part d, one of `n` choices, and numbers c; most action spaces have only
one of the two. The actor draws both on their own, `pi(d, c) = pi(d) pi(c)`, and every critic reads
c and says the value of each d, so that the expectation over d is exact and that over c a sample
(Delalleau et al. 2019, arXiv 1912.11077). Without numbers this is the discrete soft actor-critic,
without choices (n = 1) the continuous one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

from rlmem.errors import positive
from rlmem.policies.distributions import Categorical, Normal, TanhNormal
from rlmem.policies.encoders import mlp
from rlmem.policies.heads import Actor, linear
from rlmem.policies.mixed import CHOICE, Mixed
from rlmem.policies.policy import Act, Policy

# Of the critics' last layers, so that the first values say next to nothing.
GAIN = 0.01


class Plan(NamedTuple):
    """What the actor would do: all choices with their log-probabilities, one draw of the numbers.

    `numbers` are in units of half their range, and `log_density` is that of such numbers; both
    are differentiable.
    """

    log_p: Float[Tensor, "*N n"]
    numbers: Float[Tensor, "*N k"]
    log_density: Float[Tensor, "*N"]

    def entropy(self) -> Float[Tensor, "*N 2"]:
        """Of the choice, exact; and of the numbers, estimated by the draw."""
        choice = -(self.log_p.exp() * self.log_p).sum(dim=-1)
        return torch.stack([choice, -self.log_density], dim=-1)

    def value(self, q: Float[Tensor, "*N n"], alpha: Float[Tensor, "2"]) -> Float[Tensor, "*N"]:
        """`sum_d pi(d) (Q(c, d) - alpha_d log pi(d)) - alpha_c log pi(c)`: what SAC maximises."""
        return (self.log_p.exp() * q).sum(dim=-1) + self.entropy() @ alpha


class SoftCritics(nn.Module):
    """Features [*N, H] and numbers [*N, k] to what `count` critics say of `n` choices.

    With at least one hidden layer where there are numbers: a value is not linear in them.
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
        self, features: Float[Tensor, "*N H"], numbers: Float[Tensor, "*N k"]
    ) -> Float[Tensor, "count *N n"]:
        x = torch.cat([features, numbers.to(features.dtype)], dim=-1)
        return torch.stack([critic(x) for critic in self.critics]).float()


class SoftPolicy(Policy):
    """Actor and critics over one memory; takes what `Policy` takes, and `num_critics`.

    Raises `UsageError` where the discrete part has too many choices to sum over.
    """

    def __init__(
        self,
        observation_space: dict[str, gym.Space],
        action_space: dict[str, gym.Space],
        num_critics: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(observation_space, action_space, **options)
        self.mixed = Mixed(action_space)
        self.choices, self.numbers = self.mixed.choices, self.mixed.numbers
        n, k = self.mixed.n, self.mixed.k
        heads = self.head_layers, self.activation
        self.actor = Actor(self.mixed.parts, self.hidden_size, *heads, state_std=True)
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
        features, state = self.step_features(obs, state, start)
        actor = self.actor(features)
        drawn = actor.mode() if deterministic else actor.sample()
        return Act(self.mixed.action(drawn), state)

    def plan(self, features: Float[Tensor, "*N H"]) -> Plan:
        """What the actor would do; its gradient does not reach the features."""
        parts = self.actor(features.detach()).parts
        nothing = features.new_zeros(*features.shape[:-1], 1, dtype=torch.float32)
        choice = parts.get(CHOICE)
        log_p = choice.log_p if isinstance(choice, Categorical) else nothing
        if self.numbers is None:
            return Plan(log_p, nothing[..., :0], nothing.squeeze(-1))
        drawn, log_density = {}, []
        for key in self.numbers.keys:
            part = parts[key]
            assert isinstance(part, Normal | TanhNormal)
            drawn[key], log_prob = part.draw()
            log_density.append(log_prob)
        numbers = self.numbers(drawn)
        return Plan(log_p, numbers, torch.stack(log_density).sum(dim=0) + self.numbers.log_unit)

    def values(
        self, features: Float[Tensor, "*N H"], action: dict[str, Tensor]
    ) -> Float[Tensor, "count *N n"]:
        """What the critics say of the numbers in actions, with every choice."""
        none = features[..., :0]
        return self.critics(features, none if self.numbers is None else self.numbers(action))

    def judge(self, features: Float[Tensor, "*N H"], plan: Plan) -> Float[Tensor, "count *N n"]:
        """What the critics say of a plan; the gradient reaches nothing but its numbers."""
        fixed = {name: weight.detach() for name, weight in self.critics.named_parameters()}
        return functional_call(self.critics, fixed, (features.detach(), plan.numbers))

    def chosen(
        self, q: Float[Tensor, "count *N n"], action: dict[str, Tensor]
    ) -> Float[Tensor, "count *N"]:
        """What `values` says of the choice in the actions."""
        if self.choices is None:
            return q.squeeze(-1)
        index = self.choices.index(action).expand(q.shape[:-1])
        return q.gather(-1, index.unsqueeze(-1)).squeeze(-1)
