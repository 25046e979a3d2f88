"""Ridge regression in closed form, with its penalty chosen on held-out groups."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Penalties in units of the mean square of the (standardised) features.
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


def predict(
    x: Float[Tensor, "n F"],
    y: Float[Tensor, "n K"],
    train: Bool[Tensor, "n"],
    held_out: Bool[Tensor, "n"],
) -> Float[Tensor, "n K"]:
    """Predictions of all rows by linear maps fitted on the rows `train`, in float64.

    Features are standardised. The penalty of each column of `y` is the one with the smallest error
    on `held_out` (a part of `train`) after a fit on the rest; then all of `train` is fitted.
    """
    fitted, rest = train, train & ~held_out
    tried = torch.stack(_fits(x, y, rest))  # [P, n, K]
    errors = (tried - y)[:, held_out].square().mean(dim=1)
    best = errors.argmin(dim=0)
    final = torch.stack(_fits(x, y, fitted))
    return final.gather(0, best.expand(1, len(y), -1)).squeeze(0)


def _fits(x: Tensor, y: Tensor, rows: Tensor) -> list[Tensor]:
    """The predictions of all rows with each penalty."""
    x, y = x.double(), y.double()
    center, middle = x[rows].mean(0), y[rows].mean(0)
    deviation = x[rows].std(0, correction=0)
    x = (x - center) / torch.where(deviation > 1e-9, deviation, torch.inf)
    u, s, v = torch.linalg.svd(x[rows], full_matrices=False)
    seen = u.T @ (y[rows] - middle)
    size = int(rows.sum())
    return [
        (x @ v.T) @ ((s / (s.square() + penalty * size))[:, None] * seen) + middle
        for penalty in PENALTIES
    ]
