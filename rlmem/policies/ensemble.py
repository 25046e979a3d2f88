"""Layers of an ensemble: `count` networks of the same shape, each with its own weights."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.errors import unknown
from rlmem.policies.encoders import ACTIVATIONS


class EnsembleLinear(nn.Module):
    """`count` linear layers in one product; `members` [m] selects some of them, in that order."""

    def __init__(self, count: int, input_size: int, output_size: int, gain: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, input_size, output_size))
        self.bias = nn.Parameter(torch.zeros(count, 1, output_size))
        for member in self.weight.detach():
            nn.init.orthogonal_(member, gain)

    def forward(
        self, x: Float[Tensor, "c N I"], members: Int[Tensor, "m"] | None = None
    ) -> Float[Tensor, "C N O"]:
        """Member i reads `x[i]`; with c = 1 all members read `x[0]`."""
        weight, bias = pick(self.weight, members), pick(self.bias, members)
        return torch.baddbmm(bias, x.expand(len(weight), -1, -1), weight)


class EnsembleNorm(nn.Module):
    """LayerNorm and an activation; each of `count` members has its own weights."""

    def __init__(self, count: int, size: int, activation: str) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise unknown("activation", activation, ACTIVATIONS)
        self.weight = nn.Parameter(torch.ones(count, 1, size))
        self.bias = nn.Parameter(torch.zeros(count, 1, size))
        self.activation = ACTIVATIONS[activation]()

    def forward(
        self, x: Float[Tensor, "C N H"], members: Int[Tensor, "m"] | None = None
    ) -> Float[Tensor, "C N H"]:
        normal = F.layer_norm(x, x.shape[-1:])
        scaled = torch.addcmul(pick(self.bias, members), normal, pick(self.weight, members))
        return self.activation(scaled)


class EnsembleLayer(nn.Module):
    """Linear layer, LayerNorm and activation, as in `encoders.mlp`, for `count` members."""

    def __init__(self, count: int, input_size: int, output_size: int, activation: str) -> None:
        super().__init__()
        self.linear = EnsembleLinear(count, input_size, output_size, math.sqrt(2))
        self.norm = EnsembleNorm(count, output_size, activation)

    def forward(
        self, x: Float[Tensor, "c N I"], members: Int[Tensor, "m"] | None = None
    ) -> Float[Tensor, "C N O"]:
        return self.norm(self.linear(x, members), members)


def pick(weight: Tensor, members: Tensor | None) -> Tensor:
    """The weights of some members; of all members if `members` is None."""
    return weight if members is None else weight[members]
