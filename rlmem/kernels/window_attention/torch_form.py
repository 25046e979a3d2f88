"""Attention over a sliding window in torch, one block of positions at a time.

A block of n positions sees n + M keys, from M before its first position. Scores are not stored: the
backward recomputes those of a block from the logarithm of their sums, as in FlashAttention (Dao et
al. 2022, arXiv 2205.14135, algorithm 4).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# Positions of a block. Larger blocks waste scores outside the window, smaller ones waste calls.
BLOCK = 32


class Block(NamedTuple):
    """One block: slices of the row's positions and of keys and values, and the mask of scores."""

    rows: slice
    keys: slice
    seen: Tensor  # [B, 1, n, n+M]


def blocks(segment: Tensor, time: int) -> Iterator[Block]:
    """The blocks of a row; `segment` [B, M+T] numbers the episodes."""
    past = segment.shape[1] - time
    for first in range(0, time, BLOCK):
        size = min(BLOCK, time - first)
        rows, keys = slice(first, first + size), slice(first, first + size + past)
        ahead = torch.arange(size + past, device=segment.device)
        ahead = ahead - torch.arange(size, device=segment.device)[:, None]
        here = segment[:, first + past : first + past + size, None]
        seen = (here == segment[:, None, keys]) & (ahead >= 0) & (ahead <= past)
        yield Block(rows, keys, seen[:, None])


def shift(by_distance: Tensor) -> Tensor:
    """Move entry (t, M - p) of [..., n, M+1] to (t, t + M - p) of [..., n, n+M]; zero elsewhere.

    Pads each row with n zeros and reads the result as rows that are one entry shorter.
    """
    size, width = by_distance.shape[-2], by_distance.shape[-1] - 1 + by_distance.shape[-2]
    flat = F.pad(by_distance, (0, size)).flatten(-2)
    return flat[..., : size * width].unflatten(-1, (size, width))


def unshift(scores: Tensor) -> Tensor:
    """The transpose of `shift`, for scores that are zero outside the window."""
    size, width = scores.shape[-2:]
    flat = F.pad(scores.flatten(-2), (0, size))
    return flat.unflatten(-1, (size, width + 1))[..., : width + 1 - size]


def _heads_first(*tensors: Tensor) -> list[Tensor]:
    """[B, N, H, D] as [B, H, N, D]: blocks are slices of it."""
    return [each.transpose(1, 2).contiguous() if each.dim() == 4 else each for each in tensors]


def _scores(query: Tensor, key: Tensor, at: Tensor, relative: Tensor, seen: Tensor) -> Tensor:
    scores = query @ key.mT
    if relative.numel():
        scores += shift(at @ relative.mT)
    return scores.masked_fill_(~seen, -torch.inf)


def forward(
    query: Tensor, key: Tensor, value: Tensor, at: Tensor, relative: Tensor, segment: Tensor
) -> tuple[Tensor, Tensor]:
    """The result [B, T, H, E], and the logarithm of each position's sum of weights [B, H, T]."""
    time = query.shape[1]
    q, k, v, p = _heads_first(query * query.shape[-1] ** -0.5, key, value, at)
    relative, p = _by_offset(relative), p * query.shape[-1] ** -0.5
    y = value.new_empty(query.shape[0], query.shape[2], time, value.shape[3])
    log_sum = y.new_empty(y.shape[:3])
    for rows, keys, seen in blocks(segment, time):
        scores = _scores(q[:, :, rows], k[:, :, keys], _part(p, rows), relative, seen)
        log_sum[:, :, rows] = scores.logsumexp(-1)
        weights = scores.sub_(log_sum[:, :, rows, None]).exp_()
        y[:, :, rows] = weights @ v[:, :, keys]
    return y.transpose(1, 2).contiguous(), log_sum


def backward(
    grad_y: Tensor,
    y: Tensor,
    log_sum: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    at: Tensor,
    relative: Tensor,
    segment: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients for query, key, value, at and relative."""
    time, scale = query.shape[1], query.shape[-1] ** -0.5
    g, q, k, v, p = _heads_first(grad_y, query * scale, key, value, at)
    r, p = _by_offset(relative), p * scale
    common = (grad_y * y).sum(-1).transpose(1, 2)[..., None]
    grads = [torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)]
    grad_q, grad_k, grad_v = grads
    grad_p, grad_r = torch.empty_like(p), torch.zeros_like(r)
    for rows, keys, seen in blocks(segment, time):
        weights = _scores(q[:, :, rows], k[:, :, keys], _part(p, rows), r, seen)
        weights.sub_(log_sum[:, :, rows, None]).exp_()
        grad_v[:, :, keys] += weights.mT @ g[:, :, rows]
        grad_s = g[:, :, rows] @ v[:, :, keys].mT
        grad_s.sub_(common[:, :, rows]).mul_(weights)
        grad_q[:, :, rows] = grad_s @ k[:, :, keys]
        grad_k[:, :, keys] += grad_s.mT @ q[:, :, rows]
        if r.numel():
            by_offset = unshift(grad_s)
            grad_p[:, :, rows] = by_offset @ r
            grad_r += (by_offset.mT @ p[:, :, rows]).sum(0)
    grad_query, grad_key, grad_value = (each.transpose(1, 2).contiguous() for each in grads)
    if not r.numel():
        return grad_query.mul_(scale), grad_key, grad_value, grad_p, grad_r
    grad_at = grad_p.transpose(1, 2).contiguous().mul_(scale)
    grad_relative = grad_r.flip(1).transpose(0, 1).contiguous()
    return grad_query.mul_(scale), grad_key, grad_value, grad_at, grad_relative


def _by_offset(relative: Tensor) -> Tensor:
    """[M+1, H, D] by distance as [H, M+1, D] by place in the window, the farthest first."""
    return relative.transpose(0, 1).flip(1) if relative.numel() else relative


def _part(at: Tensor, rows: slice) -> Tensor:
    return at[:, :, rows] if at.numel() else at
