"""The policy of AMAGO: an actor and an ensemble of critics for many discounts over one memory.

For every discount gamma_g the actor has its own distribution over actions, and every critic values
actions under it. The agent acts with the largest discount. As in soft actor-critic, an action has a
discrete part, one of `n` joint actions, and a continuous part, a vector of size k: a critic reads
the continuous part and returns a value for each discrete action.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from rlmem.errors import UsageError, positive
from rlmem.policies.action_space import DISCRETE, HybridActions
from rlmem.policies.continuous import BoxLeaf, ContinuousDistribution
from rlmem.policies.encoders import Encoder, flat
from rlmem.policies.ensemble import EnsembleLayer, EnsembleLinear, pick
from rlmem.policies.heads import Actor, Categorical, Joint
from rlmem.policies.policy import Act, Policy
from rlmem.policies.reshaped import unflat
from rlmem.policies.soft import GAIN
from rlmem.spaces.action_mask import Legal

# Grigsby et al. 2024: horizons from one step to a thousand.
GAMMAS = [0.1, 0.9, 0.95, 0.97, 0.99, 0.995, 0.999]


class GammaValues(nn.Module):
    """The last layer of the critics: hidden [C, N, H] to values [C, N, G, n].

    Each discount has its own weights, so that its values can be shifted and scaled separately.
    """

    def __init__(self, count: int, input_size: int, gammas: int, n: int) -> None:
        super().__init__()
        self.shape = gammas, n
        self.linear = EnsembleLinear(count, input_size, gammas * n, GAIN)

    def forward(
        self, x: Float[Tensor, "C N *G H"], members: Int[Tensor, "m"] | None = None
    ) -> Float[Tensor, "C N G n"]:
        """`x` is the same for all discounts, or [C, N, G, H]."""
        if x.dim() == 3:
            return self.linear(x, members).unflatten(-1, self.shape)
        weight = pick(self.linear.weight, members).unflatten(-1, self.shape)
        bias = pick(self.linear.bias, members).unflatten(-1, self.shape)
        return torch.einsum("cngh,chgd->cngd", x, weight) + bias

    @torch.no_grad()
    def rescale(self, scale: Float[Tensor, "G"], shift: Float[Tensor, "G"]) -> None:
        """Changes the weights so that outputs become `scale * value + shift`, for each discount."""
        weight = self.linear.weight.unflatten(-1, self.shape)
        bias = self.linear.bias.unflatten(-1, self.shape)
        weight.mul_(scale[:, None])
        bias.mul_(scale[:, None]).add_(shift[:, None])


class GammaCritics(nn.Module):
    """`count` critics: features and continuous actions to values [C, *N, G, n].

    There is at least one hidden layer: without one, values would be linear in continuous actions.
    """

    def __init__(
        self,
        count: int,
        input_size: int,
        k: int,
        n: int,
        gammas: int,
        layers: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.count = count
        self.first, *rest = (
            EnsembleLayer(count, input_size, input_size, activation) for _ in range(max(layers, 1))
        )
        self.rest = nn.ModuleList(rest)
        # The layer of the continuous action; checkpoints know it by this name.
        self.numbers = EnsembleLinear(count, k, input_size, 1.0) if k else None
        self.out = GammaValues(count, input_size, gammas, n)

    def forward(
        self,
        features: Float[Tensor, "*N H"],
        continuous: Float[Tensor, "*M k"] | None = None,
        members: Int[Tensor, "m"] | None = None,
    ) -> Float[Tensor, "C *N G n"]:
        """`continuous` is [*N, k], or [*N, G, k] with one action for each discount."""
        shape = features.shape[:-1]
        x = self.first.linear(features.reshape(1, -1, features.shape[-1]), members)
        if self.numbers is not None:
            assert continuous is not None
            added = self.numbers(continuous.reshape(1, -1, continuous.shape[-1]), members)
            x = (x.unsqueeze(2) + added.unflatten(1, (x.shape[1], -1))).flatten(1, 2)
        x = self.first.norm(x, members)
        for layer in self.rest:
            x = layer(x, members)
        if continuous is not None and continuous.dim() > features.dim():
            x = x.unflatten(1, (-1, continuous.shape[-2]))
        return self.out(x, members).unflatten(1, shape).float()


class GammaHeads(nn.Module):
    """Actor and critics on the memory's features; the target network is a slow copy of them."""

    def __init__(
        self,
        action_space: dict[str, gym.Space],
        input_size: int,
        layers: int,
        activation: str,
        gammas: int,
        num_critics: int,
    ) -> None:
        super().__init__()
        self.gammas = gammas
        self.actions = HybridActions(action_space)
        self.discrete, self.continuous = self.actions.discrete, self.actions.continuous
        self.dims = {DISCRETE: 0, **(self.continuous.dims if self.continuous else {})}
        n, k, spaces = self.actions.n, self.actions.k, self.actions.actor_spaces
        self.actor = Actor(spaces, input_size, layers, activation, state_std=True, copies=gammas)
        self.critics = GammaCritics(num_critics, input_size, k, n, gammas, layers, activation)

    def value(
        self,
        features: Float[Tensor, "*N H"],
        dist: Joint,
        members: Int[Tensor, "m"] | None = None,
    ) -> Float[Tensor, "C *N G"]:
        """The critics' expected values of the actor's distributions [*N, G].

        Exact over discrete actions, from one sample of the continuous ones.
        """
        return _expect(dist, self.critics(features, self._sample(dist), members))

    def judge(
        self, features: Float[Tensor, "*N H"], dist: Joint, action: dict[str, Tensor]
    ) -> tuple[Float[Tensor, "C *N G"], Float[Tensor, "C *N G"]]:
        """All critics' values of the actions [*N], and of the actor's distributions [*N, G].

        The first have gradients for critics and features, the second for the actor alone.
        """
        if self.continuous is None:
            q = self.critics(features)
            expected = _expect(dist, q.detach())
        else:
            q = self.critics(features, self.continuous(action))
            frozen = {name: leaf.detach() for name, leaf in self.critics.named_parameters()}
            inputs = features.detach(), self._sample(dist)
            expected = _expect(dist, functional_call(self.critics, frozen, inputs))
        if self.discrete is None:
            return q.squeeze(-1), expected
        index = self.discrete.index(action)[..., None, None].expand(*q.shape[:-1], 1)
        return q.gather(-1, index).squeeze(-1), expected

    def log_prob(self, dist: Joint, action: dict[str, Tensor]) -> Float[Tensor, "*N G"]:
        """The log-probability of the actions [*N] under each discount's distribution."""
        parts = self.actions.parts(action)
        repeated = {key: _repeat(parts[key], self.dims[key], self.gammas) for key in dist.parts}
        return dist.log_prob(repeated)

    def action(self, dist: Joint, index: int, deterministic: bool) -> dict[str, Tensor]:
        """A sample from (or the mode of) the distributions of the discount `gammas[index]`."""
        sample = dist.mode() if deterministic else dist.sample()
        leaves = {key: leaf.select(-1 - self.dims[key], index) for key, leaf in sample.items()}
        return self.actions.action(leaves)

    def perturb(
        self,
        action: dict[str, Tensor],
        epsilon: Float[Tensor, "*N"],
        legal: dict[str, Legal] | None = None,
    ) -> dict[str, Tensor]:
        """Exploration: random (legal) discrete actions, and Gaussian noise on continuous ones.

        A discrete action is random with probability `epsilon`. The noise has standard deviation
        `epsilon`, in units of half the range (of 1 without two bounds); its result is clamped to
        the bounds.
        """
        explored = dict(action)
        if self.discrete:
            mask = None if legal is None else legal[DISCRETE].mask
            index = self.discrete.explore(self.discrete.index(action), epsilon, mask)
            explored |= self.discrete.action(index)
        for key, leaf in zip(self.actor.keys, self.actor.leaves, strict=True):
            if isinstance(leaf, BoxLeaf):
                vector = flat(action[key], len(leaf.shape))
                noise = epsilon.unsqueeze(-1) * torch.randn_like(vector)
                noisy = torch.clamp(vector + leaf.unit * noise, leaf.low, leaf.high)
                explored[key] = unflat(noisy, leaf.shape)
        return explored

    def _sample(self, dist: Joint) -> Float[Tensor, "*N G k"] | None:
        """A reparametrised sample of the continuous part; None if there is none."""
        if self.continuous is None:
            return None
        sample = {}
        for key in self.continuous.keys:
            part = dist.parts[key]
            assert isinstance(part, ContinuousDistribution)
            sample[key] = part.draw()[0]
        return self.continuous(sample)


class MultiGamma(Policy):
    """Actor and critics for many discounts; takes the options of `Policy`.

    `epsilon` (a scalar or one number per environment) is the exploration of `act` without
    `deterministic`, see `GammaHeads.perturb`. The algorithm sets it; it starts at 0 and is not
    saved. The leaves in `critic_only` are inputs of the critics, next to the memory's features.
    Raises `UsageError` if there are too many joint discrete actions.
    """

    has_privileged_critic = True
    epsilon: Tensor

    def __init__(
        self,
        observation_space: dict[str, gym.Space],
        action_space: dict[str, gym.Space],
        gammas: Sequence[float] = GAMMAS,
        num_critics: int = 4,
        **options: Any,
    ) -> None:
        super().__init__(observation_space, action_space, **options)
        if not gammas or not all(0 <= gamma <= 1 for gamma in gammas):
            raise UsageError(
                f"gammas must be numbers between 0 and 1, at least one, not {list(gammas)}"
            )
        self.gammas = tuple(gammas)
        self.main = self.gammas.index(max(self.gammas))
        self.heads = GammaHeads(
            action_space,
            self.hidden_size,
            self.head_layers,
            self.activation,
            len(self.gammas),
            positive("num_critics", num_critics),
        )
        self.critic_input = self.privileged_features(observation_space)
        self.register_buffer("epsilon", torch.zeros(()), persistent=False)

    @property
    def critic_encoder(self) -> Encoder | None:
        """The encoder of the leaves that only the critics read; None if there are none."""
        return None if self.critic_input is None else self.critic_input.encoder

    def critic_features(
        self, features: Float[Tensor, "*N H"], obs: dict[str, Tensor]
    ) -> Float[Tensor, "*N H"]:
        """The critics' input, from the features of the memory."""
        return features if self.critic_input is None else self.critic_input(features, obs)

    def act(
        self,
        obs: dict[str, Tensor],
        state: Any,
        start: Bool[Tensor, "N"],
        deterministic: bool = False,
    ) -> Act:
        """One time step, with the largest discount: sample an action (or take the most likely)."""
        features, state = self.core.step(self.encoder.encode_step(obs, start), state, start)
        legal = self.legal(obs)
        actor = self.heads.actor(features, legal)
        action = self.heads.action(actor, self.main, deterministic)
        if not deterministic:
            action = self.heads.perturb(action, self.epsilon, legal)

        def outputs() -> dict[str, Tensor]:
            return {name: x.select(-2, self.main) for name, x in actor.tensors().items()}

        def log_prob(action: dict[str, Tensor]) -> Tensor:
            return self.heads.log_prob(actor, action)[..., self.main]

        return Act(action, state, outputs, log_prob)

    def value(
        self, obs: dict[str, Tensor], state: Any, start: Bool[Tensor, "N"]
    ) -> Float[Tensor, "N"]:
        """The critics' mean value with the largest discount, in their own (normalised) units.

        Exact over discrete actions, from one sample of the continuous ones. Reads the state without
        advancing it.
        """
        x = self.encoder.encode_step(obs, start)
        features = self.core.step(x, state, start)[0]
        actor = self.heads.actor(features, self.legal(obs))
        values = self.heads.value(self.critic_features(features, obs), actor)
        return values.mean(dim=0)[..., self.main]

    def legal(self, obs: dict[str, Tensor]) -> dict[str, Legal] | None:
        """The legal joint discrete actions; None without a mask."""
        return None if self.mask is None else self.heads.actions.legal(self.mask(obs))


def _expect(dist: Joint, q: Float[Tensor, "C *N G n"]) -> Float[Tensor, "C *N G"]:
    """The expectation of `q` over the discrete actions."""
    discrete = dist.parts.get(DISCRETE)
    if discrete is None:
        return q.squeeze(-1)
    assert isinstance(discrete, Categorical)
    return (discrete.log_p.exp() * q).sum(dim=-1)


def _repeat(leaf: Tensor, dims: int, gammas: int) -> Tensor:
    """A leaf of the actions with `dims` dimensions, repeated for each discount."""
    dim = -1 - dims
    repeated = leaf.unsqueeze(dim)
    shape = list(repeated.shape)
    shape[dim] = gammas
    return repeated.expand(shape)
