"""Heads on top of the memory: a distribution over actions (`Actor`), and a value (`Critic`).

The distributions have no argument checks, unlike `torch.distributions`: those checks cost more than
a policy's forward pass. Continuous actions are in `continuous.py`.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import gymnasium as gym
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlmem.errors import UsageError
from rlmem.kernels import Linear
from rlmem.policies.action_space import combine, separate
from rlmem.policies.continuous import BoxLeaf
from rlmem.policies.encoders import mlp
from rlmem.policies.reshaped import Reshaped
from rlmem.spaces.action_mask import Legal
from rlmem.spaces.discrete import categories, first_values

# The log-probability of an illegal action: its probability is exactly 0, but 0 * log p is not NaN.
ILLEGAL = -1e9


@runtime_checkable
class Distribution(Protocol):
    """A batch [*N] of distributions over one leaf of the action space."""

    def sample(self) -> Tensor: ...
    def mode(self) -> Tensor: ...
    def log_prob(self, action: Tensor) -> Tensor: ...
    def entropy(self) -> Tensor: ...
    def tensors(self) -> dict[str, Tensor]: ...


def best(
    score: Float[Tensor, "*N n"], legal: Bool[Tensor, "*N n"] | None = None
) -> Int[Tensor, "*N"]:
    """The (legal) action with the highest score; legal also if scores are NaN or infinite."""
    if legal is not None:
        score = score.clamp(min=torch.finfo(score.dtype).min).masked_fill(~legal, -torch.inf)
    return score.argmax(dim=-1)


class Categorical:
    """One of n actions, from `logits` [*N, n]; actions are int64 [*N].

    With `legal`, the distribution over legal actions only. The log-probability of an illegal action
    is `ILLEGAL`, and its logit has no gradient.
    """

    def __init__(
        self, logits: Float[Tensor, "*N n"], legal: Bool[Tensor, "*N n"] | None = None
    ) -> None:
        if legal is not None:
            logits = logits.masked_fill(~legal, ILLEGAL)
        self.log_p = logits.log_softmax(dim=-1)
        self.legal = legal

    def sample(self) -> Int[Tensor, "*N"]:
        # argmax(p / Exponential(1)) is distributed as p (the Gumbel-max trick).
        noise = torch.empty_like(self.log_p).exponential_()
        return best(self.log_p - noise.log(), self.legal)

    def mode(self) -> Int[Tensor, "*N"]:
        return best(self.log_p, self.legal)

    def log_prob(self, action: Int[Tensor, "*N"]) -> Float[Tensor, "*N"]:
        return self.log_p.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Float[Tensor, "*N"]:
        return -(self.log_p.exp() * self.log_p).sum(dim=-1)

    def tensors(self) -> dict[str, Tensor]:
        """The logarithms of all probabilities, as `logits`."""
        return {"logits": self.log_p}


class MultiCategorical:
    """k independent categoricals, from `logits` [*N, sum(sizes)]; actions are int64 [*N, k].

    `legal` marks the legal values of each entry, in the order of the logits.
    """

    def __init__(
        self,
        logits: Float[Tensor, "*N n"],
        sizes: list[int],
        legal: Bool[Tensor, "*N n"] | None = None,
    ) -> None:
        parts = logits.split(sizes, dim=-1)
        if legal is None:
            self.parts = [Categorical(part) for part in parts]
        else:
            masks = legal.split(sizes, dim=-1)
            self.parts = [Categorical(*pair) for pair in zip(parts, masks, strict=True)]

    def sample(self) -> Int[Tensor, "*N k"]:
        return torch.stack([part.sample() for part in self.parts], dim=-1)

    def mode(self) -> Int[Tensor, "*N k"]:
        return torch.stack([part.mode() for part in self.parts], dim=-1)

    def log_prob(self, action: Int[Tensor, "*N k"]) -> Float[Tensor, "*N"]:
        pairs = zip(self.parts, action.unbind(-1), strict=True)
        return torch.stack([part.log_prob(entry) for part, entry in pairs]).sum(dim=0)

    def entropy(self) -> Float[Tensor, "*N"]:
        return torch.stack([part.entropy() for part in self.parts]).sum(dim=0)

    def tensors(self) -> dict[str, Tensor]:
        """The logarithms of all probabilities [*N, sum(sizes)], as `logits`."""
        return {"logits": torch.cat([part.log_p for part in self.parts], dim=-1)}


class LegalCombinations:
    """k categoricals, from `logits` [*N, sum(sizes)], given that their combination is legal.

    p(a) is proportional to the product of the categoricals' probabilities, over the combinations
    marked in `legal` [*N, prod(sizes)] (the last entry fastest). Actions are int64 [*N, k].
    """

    def __init__(
        self, logits: Float[Tensor, "*N n"], sizes: list[int], legal: Bool[Tensor, "*N m"]
    ) -> None:
        total, *rest = logits.split(sizes, dim=-1)
        for part in rest:
            total = (total.unsqueeze(-1) + part.unsqueeze(-2)).flatten(-2)
        self.numbers = Categorical(total, legal)
        self.sizes = sizes

    def sample(self) -> Int[Tensor, "*N k"]:
        return torch.stack(separate(self.numbers.sample(), self.sizes), dim=-1)

    def mode(self) -> Int[Tensor, "*N k"]:
        return torch.stack(separate(self.numbers.mode(), self.sizes), dim=-1)

    def log_prob(self, action: Int[Tensor, "*N k"]) -> Float[Tensor, "*N"]:
        return self.numbers.log_prob(combine(action.long().unbind(-1), self.sizes))

    def entropy(self) -> Float[Tensor, "*N"]:
        return self.numbers.entropy()

    def tensors(self) -> dict[str, Tensor]:
        """The logarithms of the probabilities of all combinations [*N, m], as `logits`."""
        return {"logits": self.numbers.log_p}


class Joint:
    """The product of one distribution per leaf of the action space."""

    def __init__(self, parts: dict[str, Distribution]) -> None:
        self.parts = parts

    def sample(self) -> dict[str, Tensor]:
        return {key: part.sample() for key, part in self.parts.items()}

    def mode(self) -> dict[str, Tensor]:
        return {key: part.mode() for key, part in self.parts.items()}

    def log_prob(self, action: dict[str, Tensor]) -> Float[Tensor, "*N"]:
        logs = [part.log_prob(action[key]) for key, part in self.parts.items()]
        return logs[0] if len(logs) == 1 else torch.stack(logs).sum(dim=0)

    def entropy(self) -> Float[Tensor, "*N"]:
        entropies = [part.entropy() for part in self.parts.values()]
        return entropies[0] if len(entropies) == 1 else torch.stack(entropies).sum(dim=0)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of all parts; the name of a part without its first word is a suffix.

        So `logits` belongs to the action, and `mean.throttle` to its leaf `action.throttle`.
        """
        return {
            name + (f".{key.partition('.')[2]}" if "." in key else ""): tensor
            for key, part in self.parts.items()
            for name, tensor in part.tensors().items()
        }


class DiscreteLeaf(nn.Module):
    """Discrete, MultiDiscrete and MultiBinary leaves: one logit for every value of every entry.

    Actions have the shape of the space and begin at its `start`.
    """

    start: Tensor | None

    def __init__(self, space: gym.Space) -> None:
        super().__init__()
        self.sizes = categories(space)
        self.size = sum(self.sizes)
        self.shape = tuple(space.shape or ())
        first = torch.tensor(first_values(space))
        self.register_buffer("start", first if first.any() else None, persistent=False)

    def forward(
        self, x: Float[Tensor, "*N size"], legal: Legal | None = None
    ) -> Categorical | MultiCategorical | LegalCombinations | Reshaped:
        mask = None if legal is None else legal.mask
        if not self.shape and self.start is None:
            return Categorical(x, mask)
        entries: MultiCategorical | LegalCombinations
        if legal is not None and legal.joint:
            entries = LegalCombinations(x, self.sizes, legal.mask)
        else:
            entries = MultiCategorical(x, self.sizes, mask)
        if len(self.shape) == 1 and self.start is None:
            return entries
        return Reshaped(entries, self.shape, self.start)


Leaf = DiscreteLeaf | BoxLeaf


def make_leaf(space: gym.Space, state_std: bool = False) -> Leaf:
    """The distribution for one space of the action space; a `UsageError` if it is not supported."""
    if isinstance(space, gym.spaces.Box):
        return BoxLeaf(space, state_std)
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete | gym.spaces.MultiBinary):
        return DiscreteLeaf(space)
    raise UsageError(
        f"action space {space} is not supported (supported: Discrete, MultiDiscrete, MultiBinary, "
        "Box, and Tuple and Dict of them)"
    )


class Actor(nn.Module):
    """Features [*N, H] to a joint distribution over all leaves of the action space.

    With `state_std` the standard deviations of Box leaves depend on the features. With `copies`
    there are that many distributions for each entry: a batch [*N, copies]. `legal` has the legal
    actions [*N, ...] of the masked leaves.
    """

    def __init__(
        self,
        spaces: dict[str, gym.Space],
        input_size: int,
        layers: int,
        activation: str,
        state_std: bool = False,
        copies: int | None = None,
    ) -> None:
        super().__init__()
        self.keys = list(spaces)
        self.leaves = nn.ModuleList(make_leaf(spaces[key], state_std) for key in self.keys)
        self.sizes = [leaf.size for leaf in self._leaves()]
        self.mlp = mlp([input_size] * (layers + 1), activation)
        self.copies = copies
        self.out = linear(input_size, sum(self.sizes) * (copies or 1), gain=0.01)

    def forward(self, x: Float[Tensor, "*N H"], legal: dict[str, Legal] | None = None) -> Joint:
        parameters = self.out(self.mlp(x)).float()
        if self.copies is not None:
            parameters = parameters.unflatten(-1, (self.copies, -1))
        parts = zip(self.keys, self._leaves(), parameters.split(self.sizes, dim=-1), strict=True)
        if not legal:
            return Joint({key: leaf(part) for key, leaf, part in parts})
        if self.copies is not None:
            legal = {key: _repeat(each, self.copies) for key, each in legal.items()}
        return Joint(
            {
                key: leaf(part, legal[key]) if key in legal else leaf(part)
                for key, leaf, part in parts
            }
        )

    def _leaves(self) -> list[Leaf]:
        return list(self.leaves)  # type: ignore[arg-type]


def _repeat(legal: Legal, copies: int) -> Legal:
    """Legal actions [*N, n] for each of some copies [*N, copies, n]."""
    mask = legal.mask.unsqueeze(-2)
    return Legal(mask.expand(*mask.shape[:-2], copies, mask.shape[-1]), legal.joint)


class Critic(nn.Module):
    """Features [*N, H] to one value [*N]."""

    def __init__(self, input_size: int, layers: int, activation: str) -> None:
        super().__init__()
        self.mlp = mlp([input_size] * (layers + 1), activation)
        self.out = linear(input_size, 1, gain=1.0)

    def forward(self, x: Float[Tensor, "*N H"]) -> Float[Tensor, "*N"]:
        return self.out(self.mlp(x)).float().squeeze(-1)


def linear(input_size: int, output_size: int, gain: float) -> nn.Linear:
    """The last layer of a head, orthogonal; a small gain makes the first policy nearly uniform."""
    layer = Linear(input_size, output_size)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
