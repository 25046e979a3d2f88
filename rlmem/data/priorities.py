"""Prioritised sampling of segments (Schaul et al. 2016, arXiv 1511.05952).

    P(i) = p_i^alpha / sum_k p_k^alpha                         (eq. 1)
    w_i  = (N P(i))^-beta / max_j w_j                          (section 3.4; j in the same batch)

A sum tree finds the segment at a given cumulative sum, and changes a priority, in log2(size) steps.
One number is drawn from each of B equal parts of the total sum (appendix B.2.1), all B in parallel.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlmem.ranks import reduce

# Added to every priority, so that segments without an error can still be drawn (section 3.3).
EPSILON = 1e-6


class SumTree:
    """`size` non-negative numbers in a binary tree of partial sums, in float64.

    Node 1 is the sum of all numbers, node i is the sum of nodes 2i and 2i + 1, and the last
    `leaves` nodes are the numbers.
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
        """Change the numbers at `index`; for equal indices any of their values may win."""
        if not len(index):
            return
        node = self.leaves + index
        self.nodes[node] = torch.as_tensor(value, dtype=torch.float64)
        for _ in range(self.depth):
            # Recomputed sums, not corrections by differences: rounding errors cannot accumulate.
            node = node >> 1
            self.nodes[node] = self.nodes[2 * node] + self.nodes[2 * node + 1]

    def find(self, mass: Float[Tensor, "B"]) -> Int[Tensor, "B"]:
        """The i with sum(numbers[:i]) <= mass < sum(numbers[:i + 1])."""
        node = torch.ones_like(mass, dtype=torch.int64)
        for _ in range(self.depth):
            left = self.nodes[2 * node]
            # Rounding may make `mass` exceed the sum: never descend to a node of sum 0.
            right = (mass >= left) & (self.nodes[2 * node + 1] > 0)
            mass = torch.where(right, mass - left, mass)
            node = 2 * node + right
        return node - self.leaves


class Priorities:
    """Draws segments by priority; new segments get the highest priority so far."""

    def __init__(self, size: int, alpha: float) -> None:
        self.alpha = alpha
        self.tree = SumTree(size)
        self.highest = 1.0

    def add(self, segment: Int[Tensor, "B"]) -> None:
        """Make these segments drawable."""
        self.tree.set(segment, self.highest**self.alpha)

    def remove(self, segment: Int[Tensor, "B"]) -> None:
        """Make these segments undrawable."""
        self.tree.set(segment, 0.0)

    def update(self, segment: Int[Tensor, "B"], priority: Float[Tensor, "B"]) -> None:
        """Set priorities, all at least 0; a repeated segment must repeat its priority."""
        raised = priority.double() + EPSILON
        self.highest = max(self.highest, raised.max().item())
        self.tree.set(segment, raised**self.alpha)

    def draw(self, count: int) -> Int[Tensor, "B"]:
        """The ids of `count` segments, each drawn from its own part of the total sum."""
        part = (torch.arange(count) + torch.rand(count, dtype=torch.float64)) / count
        return self.tree.find(part * self.tree.total)

    def weights(self, segment: Int[Tensor, "B"], present: int, beta: float) -> Float[Tensor, "B"]:
        """Importance weights of drawn segments; `present` (N) is the number of drawable ones.

        The largest one is 1 in the batch of all ranks.
        """
        relative = present * self.tree.get(segment) / self.tree.total
        weight = relative**-beta
        return (weight / reduce.highest(weight.max())).float()

    def state_dict(self) -> dict[str, Any]:
        """The state for a resumed run."""
        tree = self.tree
        return {
            "mass": tree.nodes[tree.leaves : tree.leaves + tree.size].clone(),
            "highest": self.highest,
            "alpha": self.alpha,
        }

    def load_state_dict(
        self,
        state: dict[str, Any],
        present: Int[Tensor, "P"],
        here: Int[Tensor, "B"],
        there: Int[Tensor, "B"],
    ) -> None:
        """Restore a `state_dict` for the segments `present`; `there[i]` becomes segment `here[i]`.

        Segments without a priority in `state` get the highest one.
        """
        self.highest = state["highest"]
        self.add(present)
        mass = state["mass"][there]
        known = mass > 0
        # A power of exactly 1 leaves every bit as it is.
        self.tree.set(here[known], mass[known] ** (self.alpha / state["alpha"]))
