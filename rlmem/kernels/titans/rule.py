"""What a memory that learns at test time minimises, what it keeps, and how it takes a step.

The names are those of Miras (Behrouz et al. 2025, arXiv 2504.13173): attentional bias for the loss,
retention for what turns all that was accumulated into weights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BIASES = ("l2", "lp", "huber")
RETENTIONS = ("l2", "lq", "kl")


class Rule(NamedTuple):
    """How a memory learns.

    Gradients are taken at weights that move on every `chunk` tokens; no error is longer than
    `limit`. The loss of a token is `|e|^2` (l2), `sum |e_i|^power` (lp), or `|e|^2` as far as
    `|e| <= delta` and linear behind (huber). Weights are what was accumulated (l2), that over its
    norm `|A|_norm^(norm - 2)` (lq), or its softmax (kl). `window` tokens are learned from at once;
    `orthogonal` steps of Newton and Schulz make the momentum nearly orthogonal first (0: none).
    """

    chunk: int = 1
    limit: float | None = None
    bias: str = "l2"
    power: float = 3.0
    retention: str = "l2"
    norm: float = 4.0
    window: int = 1
    orthogonal: int = 0

    @property
    def linear(self) -> bool:
        """Whether weights are linear in the gradients, which allows the dual form."""
        return self.retention == "l2" and not self.orthogonal


PLAIN = Rule()


def slope(rule: Rule, error: Tensor, delta: Tensor) -> Tensor:
    """The derivative of the loss by the answer; errors [*N, D], `delta` [*N]."""
    if rule.bias == "lp":
        # Miras' remark 5 smooths sign and modulus apart; one root for both is exact for p = 2.
        return rule.power * error * (error.square() + 1e-6).pow(rule.power / 2 - 1)
    return cut(2 * error, 2 * delta[..., None] if rule.bias == "huber" else None)


def cut(error: Tensor, limit: float | Tensor | None) -> Tensor:
    """Errors that are longer than `limit` are cut to that length."""
    if limit is None:
        return error
    # The clamp keeps the gradient of the norm finite where nothing is wrong.
    length = error.square().sum(-1, keepdim=True).clamp(min=limit * limit).sqrt()
    return error * (limit / length)


def retain(rule: Rule, kept: Tensor) -> Tensor:
    """The weights [*N, in, out] that follow from what was accumulated."""
    if rule.retention == "lq":
        # A memory that forgot nearly everything has small weights, not infinite ones.
        length = kept.abs().pow(rule.norm).sum((-2, -1), keepdim=True) + 1e-6
        return kept / length.pow(1 - 2 / rule.norm)
    if rule.retention == "kl":
        return kept.softmax(-2) * kept.shape[-2] ** 0.5
    return kept


def orthogonal(matrix: Tensor, steps: int) -> Tensor:
    """Muon's iteration (Jordan et al. 2024): singular values of [*N, in, out] move towards 1."""
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / (x.square().sum((-2, -1), keepdim=True) + 1e-6).sqrt()
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + torch.matmul(2.0315 * gram @ gram - 4.775 * gram, x)
    return x.mT if tall else x
