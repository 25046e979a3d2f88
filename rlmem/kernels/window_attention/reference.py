"""Definition of attention over a sliding window: all scores of the row, and a mask."""

from __future__ import annotations

import torch
from torch import Tensor


def segments(alive: Tensor, start: Tensor) -> Tensor:
    """Episode numbers [B, M+T] of the cached positions and the row's; -1 for unused positions."""
    return torch.cat([alive.long() - 1, start.long().cumsum(1)], dim=1)


def window_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    alive: Tensor,
    start: Tensor,
    position_query: Tensor | None = None,
    relative: Tensor | None = None,
) -> Tensor:
    """Same arguments and result as `rlmem.kernels.window_attention`, in O(T (T + M)) memory."""
    time, past = start.shape[1], alive.shape[1]
    scores = torch.einsum("bthd,bjhd->bhtj", query, key)
    here = torch.arange(past, past + time, device=start.device)
    distance = here[:, None] - torch.arange(past + time, device=start.device)
    if position_query is not None and relative is not None:
        by_distance = torch.einsum("bthd,phd->bhtp", position_query, relative)
        index = distance.clamp(0, past).expand(*by_distance.shape[:2], -1, -1)
        scores = scores + by_distance.gather(3, index)
    segment = segments(alive, start)
    seen = (segment[:, past:, None] == segment[:, None, :]) & (distance >= 0) & (distance <= past)
    scores = (scores * query.shape[-1] ** -0.5).masked_fill(~seen[:, None], -torch.inf)
    return torch.einsum("bhtj,bjhe->bthe", scores.softmax(-1), value)
