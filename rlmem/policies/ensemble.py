"""Several networks of one shape side by side, each with weights of its own, as one."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.errors import unknown
from rlmem.policies.encoders import ACTIVATIONS


class EnsembleLinear(nn.Module):
    """`count` linear maps at once; with `members` [m] only those, in that order."""

    def __init__(self, count: int, input_size: int, output_size: int, gain: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, input_size, output_size))
        self.bias = nn.Parameter(torch.zeros(count, 1, output_size))
        for member in self.weight.detach():
            nn.init.orthogonal_(member, gain)

    def forward(
        self, x: Float[Tensor, "c N I"], members: Int[Tensor, "m"] | None = None
    ) -> Float[Tensor, "C N O"]:
        """Member i reads `x[i]`, or the one `x[0]` that there is for all."""
        weight, bias = pick(self.weight, members), pick(self.bias, members)
        return torch.baddbmm(bias, x.expand(len(weight), -1, -1), weight)


class EnsembleNorm(nn.Module):
    """LayerNorm and an activation, each of `count` members with weights of its own."""

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
    """Linear, LayerNorm, activation: the layer that `encoders.mlp` has, `count` times."""

    def __init__(self, count: int, input_size: int, output_size: int, activation: str) -> None:
        super().__init__()
        self.linear = EnsembleLinear(count, input_size, output_size, math.sqrt(2))
        self.norm = EnsembleNorm(count, output_size, activation)

    def forward(
        self, x: Float[Tensor, "c N I"], members: Int[Tensor, "m"] | None = None
    ) -> Float[Tensor, "C N O"]:
        return self.norm(self.linear(x, members), members)


def pick(weight: Tensor, members: Tensor | None) -> Tensor:
    """The weights of some members; of all where `members` is None."""
    return weight if members is None else weight[members]
