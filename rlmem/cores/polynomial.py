"""Polynomial features of vectors of length 1, for the keys of Atlas."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations_with_replacement

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlmem.errors import positive


class Monomials(nn.Module):
    """All monomials of degree 0 to p, `f(x)` [*N, F] with F = (D + p)! / (D! p!).

    The entry of x^b, b a multi-index of degree i, is `a_i sqrt(i! / b!) x^b / |a|`, so that

        f(x) . f(y) = sum_i a_i^2 (x . y)^i / sum_i a_i^2

    `a` is learned and begins with a_i^2 = 1 / i!, the series of exp(x . y). The length of f(x) is 1
    if that of x is 1, for any `a`.
    """

    _factors: Tensor
    _order: Tensor
    _ways: Tensor

    def __init__(self, size: int, degree: int) -> None:
        super().__init__()
        # Degree i is a product of p factors, of which p - i are the number one, at position 0.
        every = list(combinations_with_replacement(range(size + 1), positive("degree", degree)))
        self.size = len(every)
        orders = [sum(place > 0 for place in each) for each in every]
        ways = [_ways([place for place in each if place]) for each in every]
        self.register_buffer("_factors", torch.tensor(every), persistent=False)
        self.register_buffer("_order", torch.tensor(orders), persistent=False)
        self.register_buffer("_ways", torch.tensor(ways), persistent=False)
        first = [math.factorial(i) ** -0.5 for i in range(degree + 1)]
        self.a = nn.Parameter(torch.tensor(first))

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N F"]:
        with_one = torch.cat([torch.ones_like(x[..., :1]), x], dim=-1)
        first, *rest = self._factors.unbind(1)
        y = with_one[..., first]
        for place in rest:
            y = y * with_one[..., place]
        a = self.a.to(x.dtype)
        return y * (a[self._order] * self._ways.to(x.dtype).sqrt() / a.square().sum().sqrt())


def _ways(places: list[int]) -> int:
    """The number of orders of the factors, i! / b!."""
    repeats = math.prod(math.factorial(n) for n in Counter(places).values())
    return math.factorial(len(places)) // repeats
