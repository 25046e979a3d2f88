"""The agent of AMAGO: a policy, and an ensemble's values of it, for each of many discounts.

One actor and one ensemble of critics read the same features of one memory. The actor says for
every discount gamma_g what to do if that were the goal, and every critic how good a choice then is.
It plays for the largest. As in soft actor-critic an action has a discrete part, one of `n` choices,
and numbers: a critic reads the numbers and says the value of each choice.
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
from rlmem.policies.distributions import Categorical, Joint, Normal, TanhNormal
from rlmem.policies.ensemble import EnsembleLayer, EnsembleLinear, pick
from rlmem.policies.heads import Actor, BoxLeaf
from rlmem.policies.mixed import CHOICE, Mixed
from rlmem.policies.policy import Act, Policy
from rlmem.policies.soft import GAIN

# Grigsby et al. 2024: from the next reward alone to a thousand steps.
GAMMAS = [0.1, 0.9, 0.95, 0.97, 0.99, 0.995, 0.999]


class GammaValues(nn.Module):
    """The last layer of the critics: hidden [C, N, H] to values [C, N, G, n].

    Each discount has weights of its own, so that its values can be shifted and scaled alone.
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
        """From now on say `scale * value + shift` of what was said so far, for each discount."""
        weight = self.linear.weight.unflatten(-1, self.shape)
        bias = self.linear.bias.unflatten(-1, self.shape)
        weight.mul_(scale[:, None])
        bias.mul_(scale[:, None]).add_(shift[:, None])


class GammaCritics(nn.Module):
    """Features and numbers to what `count` critics say of `n` choices under each discount.

    At least one hidden layer: without, a value would be linear in the numbers.
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
        self.numbers = EnsembleLinear(count, k, input_size, 1.0) if k else None
        self.out = GammaValues(count, input_size, gammas, n)

    def forward(
        self,
        features: Float[Tensor, "*N H"],
        numbers: Float[Tensor, "*M k"] | None = None,
        members: Int[Tensor, "m"] | None = None,
    ) -> Float[Tensor, "C *N G n"]:
        """`numbers` are [*N, k], or [*N, G, k] where every discount has its own."""
        shape = features.shape[:-1]
        x = self.first.linear(features.reshape(1, -1, features.shape[-1]), members)
        if self.numbers is not None:
            assert numbers is not None
            read = self.numbers(numbers.reshape(1, -1, numbers.shape[-1]), members)
            x = (x.unsqueeze(2) + read.unflatten(1, (x.shape[1], -1))).flatten(1, 2)
        x = self.first.norm(x, members)
        for layer in self.rest:
            x = layer(x, members)
        if numbers is not None and numbers.dim() > features.dim():
            x = x.unflatten(1, (-1, numbers.shape[-2]))
        return self.out(x, members).unflatten(1, shape).float()


class GammaHeads(nn.Module):
    """Actor and critics: what learns beside the memory, and what a slow copy of is the target."""

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
        self.mixed = Mixed(action_space)
        self.choices, self.numbers = self.mixed.choices, self.mixed.numbers
        n, k, parts = self.mixed.n, self.mixed.k, self.mixed.parts
        self.actor = Actor(parts, input_size, layers, activation, state_std=True, copies=gammas)
        self.critics = GammaCritics(num_critics, input_size, k, n, gammas, layers, activation)

    def value(
        self,
        features: Float[Tensor, "*N H"],
        policy: Joint,
        members: Int[Tensor, "m"] | None = None,
    ) -> Float[Tensor, "C *N G"]:
        """What critics expect of the policies: over the choices exactly, of one draw of numbers."""
        return _expect(policy, self.critics(features, self._draw(policy), members))

    def judge(
        self, features: Float[Tensor, "*N H"], policy: Joint, action: dict[str, Tensor]
    ) -> tuple[Float[Tensor, "C *N G"], Float[Tensor, "C *N G"]]:
        """What all critics say of the actions [*N], and what they expect of the policies.

        The first has a gradient to critics and features, the second one to the policies alone.
        """
        if self.numbers is None:
            q = self.critics(features)
            expected = _expect(policy, q.detach())
        else:
            q = self.critics(features, self.numbers(action))
            frozen = {name: leaf.detach() for name, leaf in self.critics.named_parameters()}
            drawn = functional_call(self.critics, frozen, (features.detach(), self._draw(policy)))
            expected = _expect(policy, drawn)
        if self.choices is None:
            return q.squeeze(-1), expected
        index = self.choices.index(action)[..., None, None].expand(*q.shape[:-1], 1)
        return q.gather(-1, index).squeeze(-1), expected

    def log_prob(self, policy: Joint, action: dict[str, Tensor]) -> Float[Tensor, "*N G"]:
        """Of the actions [*N] under each policy."""
        parts = dict(action)
        if self.choices:
            parts[CHOICE] = self.choices.index(action)
        each = {key: _for_each(parts[key], key == CHOICE, self.gammas) for key in policy.parts}
        return policy.log_prob(each)

    def action(self, policy: Joint, copy: int, deterministic: bool) -> dict[str, Tensor]:
        """What one of the policies would do."""
        drawn = policy.mode() if deterministic else policy.sample()
        drawn = {k: v[..., copy] if k == CHOICE else v[..., copy, :] for k, v in drawn.items()}
        return self.mixed.action(drawn)

    def perturb(self, action: dict[str, Tensor], epsilon: Float[Tensor, "*N"]) -> dict[str, Tensor]:
        """Random choices with probability `epsilon`, noise of deviation `epsilon` in numbers.

        The noise is in units of half the numbers' range, which it does not leave.
        """
        found = dict(action)
        if self.choices:
            index = self.choices.explore(self.choices.index(action), epsilon)
            found |= self.choices.action(index)
        for key, leaf in zip(self.actor.keys, self.actor.leaves, strict=True):
            if isinstance(leaf, BoxLeaf):
                noise = epsilon.unsqueeze(-1) * torch.randn_like(action[key])
                half = (leaf.high - leaf.low) / 2 if leaf.bounded else 1.0
                found[key] = torch.clamp(action[key] + half * noise, leaf.low, leaf.high)
        return found

    def _draw(self, policy: Joint) -> Float[Tensor, "*N G k"] | None:
        if self.numbers is None:
            return None
        drawn = {}
        for key in self.numbers.keys:
            part = policy.parts[key]
            assert isinstance(part, Normal | TanhNormal)
            drawn[key] = part.draw()[0]
        return self.numbers(drawn)


class MultiGamma(Policy):
    """Actor and critics for many discounts over one memory; takes what `Policy` takes.

    `epsilon` (a scalar or one number for each environment) is how far `act` strays where it is not
    `deterministic`. It is set by the algorithm, not saved, and 0 at first. Raises `UsageError`
    where there are too many choices.
    """

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
            raise UsageError(f"gammas must be some numbers between 0 and 1, not {list(gammas)}")
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
        self.register_buffer("epsilon", torch.zeros(()), persistent=False)

    def act(
        self,
        obs: dict[str, Tensor],
        state: Any,
        start: Bool[Tensor, "N"],
        deterministic: bool = False,
    ) -> Act:
        """One time step, for the largest discount: sample an action (or take the likeliest)."""
        features, state = self.step_features(obs, state, start)
        action = self.heads.action(self.heads.actor(features), self.main, deterministic)
        return Act(action if deterministic else self.heads.perturb(action, self.epsilon), state)


def _expect(policy: Joint, q: Float[Tensor, "C *N G n"]) -> Float[Tensor, "C *N G"]:
    choice = policy.parts.get(CHOICE)
    if choice is None:
        return q.squeeze(-1)
    assert isinstance(choice, Categorical)
    return (choice.log_p.exp() * q).sum(dim=-1)


def _for_each(leaf: Tensor, scalar: bool, gammas: int) -> Tensor:
    """A leaf of actions once for each discount."""
    dim = -1 if scalar else -2
    repeated = leaf.unsqueeze(dim)
    shape = list(repeated.shape)
    shape[dim] = gammas
    return repeated.expand(shape)
