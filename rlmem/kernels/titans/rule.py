"""The learning rule of a memory that learns at test time: loss, retention and update.

The names are those of Miras (Behrouz et al. 2025, arXiv 2504.13173): attentional bias is the loss,
retention the map from accumulated updates to weights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BIASES = ("l2", "lp", "huber")
RETENTIONS = ("l2", "lq", "kl")
MIN_DELTA = 1e-18  # its square is still a normal float32


class Rule(NamedTuple):
    """The learning rule of a memory.

    Gradients are taken at weights that move every `chunk` tokens; errors are at most `limit` long.
    The loss of a token is `|e|^2` (l2), `sum |e_i|^power` (lp), or `|e|^2` for `|e| <= delta` and
    linear above (huber). The weights are the accumulated updates A (l2), A over its norm
    `|A|_norm^(norm - 2)` (lq), or its softmax (kl). Each update learns from `window` tokens;
    `orthogonal` steps of Newton and Schulz first make the momentum nearly orthogonal (0: none).
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
        """Whether the weights are linear in the gradients, which allows the dual form."""
        return self.retention == "l2" and not self.orthogonal


PLAIN = Rule()


def slope(rule: Rule, error: Tensor, delta: Tensor) -> Tensor:
    """The derivative of the loss by the answer; errors [*N, D], `delta` [*N]."""
    if rule.bias == "lp":
        # Miras' remark 5 smooths sign and modulus separately; one root for both is exact for p = 2.
        return rule.power * error * (error.square() + 1e-6).pow(rule.power / 2 - 1)
    if rule.bias != "huber":
        return 2 * error
    # Softplus of a large negative number is 0, which would be 0 / 0 for an error of 0.
    return cut(2 * error, 2 * delta[..., None].clamp(min=MIN_DELTA))


def cut(error: Tensor, limit: float | Tensor | None) -> Tensor:
    """Errors, shortened to the length `limit` if they are longer."""
    if limit is None:
        return error
    # The clamp keeps the gradient of the norm finite at zero error.
    length = error.square().sum(-1, keepdim=True).clamp(min=limit * limit).sqrt()
    return error * (limit / length)


def retain(rule: Rule, kept: Tensor) -> Tensor:
    """The weights [*N, in, out] that follow from the accumulated updates."""
    if rule.retention == "lq":
        # The constant keeps the weights small, not infinite, if nearly everything was forgotten.
        length = kept.abs().pow(rule.norm).sum((-2, -1), keepdim=True) + 1e-6
        return kept / length.pow(1 - 2 / rule.norm)
    if rule.retention == "kl":
        return kept.softmax(-2) * kept.shape[-2] ** 0.5
    return kept


def orthogonal(matrix: Tensor, steps: int) -> Tensor:
    """Muon's iteration (Jordan et al. 2024): moves singular values of [*N, in, out] towards 1."""
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / (x.square().sum((-2, -1), keepdim=True) + 1e-6).sqrt()
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + torch.matmul(2.0315 * gram @ gram - 4.775 * gram, x)
    return x.mT if tall else x
