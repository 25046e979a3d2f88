"""Priorities: what was surprising is seen again sooner (Schaul et al. 2016, arXiv 1511.05952).

    P(i) = p_i^alpha / sum_k p_k^alpha                         (eq. 1)
    w_i  = (N P(i))^-beta / max_j w_j                          (section 3.4; j of the same batch)

A tree of sums finds the unit at a given mass, and changes a priority, in log2(size) steps. One
number is drawn from each of B equal parts of the mass (appendix B.2.1), all B of them at once.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Added to every priority, so that what holds no surprise at all is not lost (section 3.3).
EPSILON = 1e-6


class SumTree:
    """Non-negative numbers 0 .. size - 1 with their sums by twos, fours, ..., in float64.

    Node 1 is the sum of all, nodes 2i and 2i + 1 are the halves of node i, the numbers themselves
    are the last `leaves` nodes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.depth = max(size - 1, 0).bit_length()
        self.leaves = 1 << self.depth
        self.nodes = torch.zeros(2 * self.leaves, dtype=torch.float64)

    @property
    def total(self) -> Tensor:
        """The sum of all numbers."""
        return self.nodes[1]

    def get(self, index: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """The numbers at `index`."""
        return self.nodes[self.leaves + index]

    def set(self, index: Int[Tensor, "B"], value: Float[Tensor, "B"] | float) -> None:
        """Change the numbers at `index`; of equal indices any one's value may stay."""
        if not len(index):
            return
        node = self.leaves + index
        self.nodes[node] = torch.as_tensor(value, dtype=torch.float64)
        for _ in range(self.depth):
            # Sums are made anew and not corrected by differences: no error can build up.
            node = node >> 1
            self.nodes[node] = self.nodes[2 * node] + self.nodes[2 * node + 1]

    def find(self, mass: Float[Tensor, "B"]) -> Int[Tensor, "B"]:
        """The i with sum(numbers[:i]) <= mass < sum(numbers[:i + 1])."""
        node = torch.ones_like(mass, dtype=torch.int64)
        for _ in range(self.depth):
            left = self.nodes[2 * node]
            # Rounding may leave more mass than there is: never go where there is none.
            right = (mass >= left) & (self.nodes[2 * node + 1] > 0)
            mass = torch.where(right, mass - left, mass)
            node = 2 * node + right
        return node - self.leaves


class Priorities:
    """Draws units in proportion to their priorities; new ones get the highest there was yet."""

    def __init__(self, size: int, alpha: float) -> None:
        self.alpha = alpha
        self.tree = SumTree(size)
        self.highest = 1.0

    def add(self, unit: Int[Tensor, "B"]) -> None:
        """Units that can be drawn from now on."""
        self.tree.set(unit, self.highest**self.alpha)

    def remove(self, unit: Int[Tensor, "B"]) -> None:
        """Units that can no longer be drawn."""
        self.tree.set(unit, 0.0)

    def update(self, unit: Int[Tensor, "B"], priority: Float[Tensor, "B"]) -> None:
        """New priorities, all at least 0; units that were drawn twice have the same one twice."""
        raised = priority.double() + EPSILON
        self.highest = max(self.highest, raised.max().item())
        self.tree.set(unit, raised**self.alpha)

    def draw(self, count: int) -> Int[Tensor, "B"]:
        """`count` units, each drawn from its own part of the mass."""
        part = (torch.arange(count) + torch.rand(count, dtype=torch.float64)) / count
        return self.tree.find(part * self.tree.total)

    def weights(self, unit: Int[Tensor, "B"], present: int, beta: float) -> Float[Tensor, "B"]:
        """Importance weights of drawn units, of `present` ones that could have been drawn."""
        likely = present * self.tree.get(unit) / self.tree.total
        weight = likely**-beta
        return (weight / weight.max()).float()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        tree = self.tree
        return {
            "mass": tree.nodes[tree.leaves : tree.leaves + tree.size].clone(),
            "highest": self.highest,
        }

    def load_state_dict(self, state: dict[str, Any], present: Int[Tensor, "B"]) -> None:
        """Take up what `state_dict` gave, for those units that are still there."""
        self.highest = state["highest"]
        self.tree.set(present, state["mass"][present])
