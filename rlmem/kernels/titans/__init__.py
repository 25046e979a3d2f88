"""Neural memory that learns at test time (Titans)."""

from __future__ import annotations

import torch
from torch import Tensor

from rlmem.kernels.episodes import next_age
from rlmem.kernels.titans.ops import flat, grouped, learn_row, unzipped
from rlmem.kernels.titans.reference import (
    Learned,
    Matrices,
    Rates,
    begin,
    learn,
    opened,
    recall,
    titans_reference,
)
from rlmem.kernels.titans.rule import BIASES, PLAIN, RETENTIONS, Rule, retain

__all__ = [
    "Learned",
    "Rates",
    "Rule",
    "begin",
    "learn",
    "opened",
    "recall",
    "retain",
    "titans",
    "titans_reference",
]


def titans(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rates: Rates,
    first: Matrices,
    state: Learned,
    start: Tensor,
    rule: Rule = PLAIN,
) -> tuple[Tensor, Learned]:
    """A memory M whose weights learn `k -> v` token by token, and then answer `q`; [B, T, H, D].

        S[t] = eta[t] S[t-1] - theta[t] sum_j gamma[j] grad_W loss(M_W(k[j]), v[j])
        A[t] = (1 - alpha[t]) A[t-1] + S[t],   W[t] = retain(A[t]),   y[t] = M_W[t](q[t])

    with the sum over the last `rule.window` tokens j of the episode, and gradients at the anchor's
    W. Titans (Behrouz et al. 2025, arXiv 2501.00663, equations 9, 10, 13 and 14) has the loss
    `|M(k) - v|^2`, without a mean, W = A, a window of one and gamma 1; what else `Rule` allows is
    Miras (arXiv 2504.13173, section 5.3) and Atlas (arXiv 2505.23735): where the papers' chunks are
    linear but for their borders, here W follows from A at every token. With `rule.orthogonal`, A
    grows by theta times the orthogonal S, and S is without theta. M(x) is
    `x W1` or `gelu(x W1) W2`.

    `q`, `k`, `v` are [B, T, H, D], the rates [B, T, H], `first` the A [H, in, out] of a new
    episode, `start` [B, T] bool, `state` what came before the row; also returns what comes after
    it. The anchor moves on every `rule.chunk` tokens, counted from the episode's start (1: it is
    the last weights always). `rule.limit` bounds the length of a token's error, and so what one
    token can change. Computed in float32, or float64 where q is. Differentiable once, through the
    inner gradients. A ValueError says what is wrong with the arguments.
    """
    _check_rule(rule)
    _check(q, k, v, rates, first, state, start, rule)
    dtype = torch.promote_types(q.dtype, torch.float32)
    given = [each.to(dtype) for each in (q, k, v, *rates.filled(), *first, *flat(state))]
    y, *rest = learn_row(given, state.age, start, *rule)
    matrices, recent = unzipped(rest, rule)
    weight, momentum, anchor = grouped(matrices, len(first))
    return y.to(q.dtype), Learned(weight, momentum, anchor, next_age(state.age, start), recent)


def _check_rule(rule: Rule) -> None:
    if rule.chunk < 1 or (rule.limit is not None and rule.limit <= 0):
        raise ValueError(
            f"titans: chunk and limit must be positive, not {rule.chunk} and {rule.limit}"
        )
    if rule.bias not in BIASES or rule.retention not in RETENTIONS:
        raise ValueError(
            f"titans: bias must be of {BIASES} and retention of {RETENTIONS}, not {rule.bias!r} "
            f"and {rule.retention!r}"
        )
    if rule.power < 1 or rule.norm < 2 or rule.window < 1 or rule.orthogonal < 0:
        raise ValueError(f"titans: power, norm, window or orthogonal is too small in {rule}")


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rates: Rates,
    first: Matrices,
    state: Learned,
    start: Tensor,
    rule: Rule,
) -> None:
    if q.dim() != 4 or 0 in q.shape:
        raise ValueError(f"titans: q must be [B, T, H, D], each at least 1, not {list(q.shape)}")
    if len(first) not in (1, 2):
        raise ValueError(f"titans: a memory has one matrix or two, not {len(first)}")
    rows, time, heads, size = q.shape
    width = first[0].shape[-1]
    shapes = [[heads, size, width], [heads, width, v.shape[-1]]][: len(first)]
    wanted = {"k": (k, [*q.shape]), "v": (v, [rows, time, heads, v.shape[-1]])}
    given = {name: rate for name, rate in rates._asdict().items() if rate is not None}
    wanted |= {name: (rate, [rows, time, heads]) for name, rate in given.items()}
    wanted |= {"start": (start, [rows, time]), "age": (state.age, [rows])}
    if rule.window > 1:
        recent = state.recent if isinstance(state.recent, Tensor) else q.new_empty(0)
        wanted["recent"] = (recent, [rows, rule.window - 1, heads, size + v.shape[-1] + 2])
    for i, shape in enumerate(shapes):
        wanted[f"first[{i}]"] = (first[i], shape)
        for name, matrices in zip(state._fields[:3], state[:3], strict=True):
            wanted[f"{name}[{i}]"] = (matrices[i], [rows, *shape])
    for name, (each, shape) in wanted.items():
        if list(each.shape) != shape:
            raise ValueError(f"titans: {name} must be {shape}, not {list(each.shape)}")
    if start.dtype != torch.bool:
        raise ValueError(f"titans: start must be torch.bool, not {start.dtype}")
    devices = {name: str(each.device) for name, (each, _) in wanted.items()}
    if len({*devices.values(), str(q.device)}) > 1:
        raise ValueError(f"titans: all tensors must be on one device, not {devices}")
