"""Definition of the self-referential weight matrix: one step, and a plain loop over it."""

from __future__ import annotations

import torch
from torch import Tensor

RATES = 4  # learning rates: of the rows of y, q, k and of the rates themselves


def parts(rows: int, size: int) -> tuple[int, int, int, int]:
    """The sizes of y, q, k and b in the `rows` outputs of a matrix with `size` inputs."""
    return rows - 2 * size - RATES, size, size, RATES


def self_step(x: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
    """One time step without resets: y [B, H, Y] and the changed W [B, H, R, D]; x [B, H, D]."""
    y, q, k, b = (W @ x[..., None]).squeeze(-1).split(parts(*W.shape[-2:]), dim=-1)
    query, key = q.softmax(-1), k.softmax(-1)
    each = zip(b.sigmoid().split(1, dim=-1), (y, q, k, b), strict=True)
    rates = torch.cat([rate.expand_as(part) for rate, part in each], dim=-1)
    wanted = W @ (query - key)[..., None]
    return y, W + rates[..., None] * wanted * key[..., None, :]


def self_reference_reference(
    x: Tensor, weight: Tensor, change: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """Same arguments and results as `rlmem.kernels.self_reference`."""
    outputs = []
    for x_t, start_t in zip(x.unbind(1), start.unbind(1), strict=True):
        change = torch.where(start_t[:, None, None, None], 0, change)
        y, W = self_step(x_t, weight + change)
        change = W - weight
        outputs.append(y)
    return torch.stack(outputs, dim=1), change
