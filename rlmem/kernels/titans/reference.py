"""Definition of the memory that learns at test time: one token after the other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rlmem.kernels.titans.rule import PLAIN, Rule, cut, orthogonal, retain, slope

Matrices = tuple[Tensor, ...]


class Learned(NamedTuple):
    """The state of an inner memory: one matrix per layer, one or two layers, each [B, H, in, out].

    `weight` is A, the accumulated updates, from which the rule's retention makes the weights;
    `anchor` is A at the beginning of the current chunk, where all its gradients are taken.
    `age` [B] (int64) counts the tokens of the episode. `recent` [B, window - 1, H, K + V + 2] holds
    keys, values, gamma and delta of the tokens that will be learned from again, zeros before the
    episode's first; empty if the window is 1.
    """

    weight: Matrices
    momentum: Matrices
    anchor: Matrices
    age: Tensor
    recent: Tensor | tuple[()] = ()


class Rates(NamedTuple):
    """Rates of learning a token, each [*N, H]: step size theta, momentum eta, forgetting alpha.

    `gamma` is the token's weight in the windows that contain it. Huber's loss is linear for errors
    above `delta`. None means 1.
    """

    theta: Tensor
    eta: Tensor
    alpha: Tensor
    gamma: Tensor | None = None
    delta: Tensor | None = None

    def filled(self) -> tuple[Tensor, ...]:
        """All five rates."""
        one = torch.ones_like(self.theta)
        gamma, delta = (one if each is None else each for each in self[3:])
        return *self[:3], gamma, delta


def recall(weight: Matrices, x: Tensor) -> Tensor:
    """The memory's answer to `x` [*N, D]: `x W1`, or `gelu(x W1) W2` with two layers."""
    y = torch.einsum("...d,...df->...f", x, weight[0])
    return y if len(weight) == 1 else torch.einsum("...f,...fd->...d", F.gelu(y), weight[1])


def gelu_slope(x: Tensor) -> Tensor:
    """The derivative of gelu."""
    density = torch.exp(-0.5 * x * x) * 0.3989422804014327
    return 0.5 * (1 + torch.erf(x * 0.7071067811865476)) + x * density


def surprise(rule: Rule, kept: Matrices, key: Tensor, value: Tensor, delta: Tensor) -> Matrices:
    """The factors of the gradients of the loss by the weights, which are outer products.

    For each matrix: its input, and the error at its output, at most as long as the limit.
    `kept` is A, the accumulated updates.
    """
    weight = tuple(retain(rule, each) for each in kept)
    hidden = torch.einsum("...d,...df->...f", key, weight[0])
    if len(weight) == 1:
        return key, cut(slope(rule, hidden - value, delta), rule.limit)
    seen = F.gelu(hidden)
    error = torch.einsum("...f,...fd->...d", seen, weight[1]) - value
    wrong = cut(slope(rule, error, delta), rule.limit)
    back = torch.einsum("...d,...fd->...f", wrong, weight[1]) * gelu_slope(hidden)
    return key, cut(back, rule.limit), seen, wrong


def pack(k: Tensor, v: Tensor, gamma: Tensor, delta: Tensor) -> Tensor:
    """Tokens in the format of `Learned.recent`."""
    return torch.cat([k, v, gamma[..., None], delta[..., None]], dim=-1)


def unpack(tokens: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keys, of length `size`, values, gamma and delta."""
    k, v, last = tokens.split([size, tokens.shape[-1] - size - 2, 2], dim=-1)
    return k, v, last[..., 0], last[..., 1]


def next_anchor(state: Learned, chunk: int) -> Matrices:
    """The anchor of the next token: A at the beginning of that token's chunk."""
    opens = (state.age % chunk == 0)[:, None, None, None]
    return tuple(torch.where(opens, w, a) for w, a in zip(state.weight, state.anchor, strict=True))


def learn(
    q: Tensor, k: Tensor, v: Tensor, rates: Rates, state: Learned, rule: Rule
) -> tuple[Tensor, Learned]:
    """One token [B, H, D] for each row: learns `k -> v`, then returns the answer to `q`."""
    device = q.device.type
    if torch.is_autocast_enabled(device):
        # As in the operator: in the dtype of the arguments.
        with torch.autocast(device, enabled=False):
            return learn(q, k, v, rates, state, rule)
    anchor = next_anchor(state, rule.chunk)
    theta, eta, alpha, gamma, delta = rates.filled()
    tokens, recent = pack(k, v, gamma, delta)[:, None], state.recent
    if isinstance(recent, Tensor):
        tokens, recent = (torch.cat([x, tokens], dim=1) for x in (recent, recent[:, 1:]))
    key, value, gamma, delta = unpack(tokens.transpose(1, 2), k.shape[-1])
    factors = surprise(rule, tuple(a[:, :, None] for a in anchor), key, value, delta)
    theta, eta, alpha = (rate[..., None, None] for rate in (theta, eta, alpha))
    # Orthogonalisation would discard the step size theta, so it is applied afterwards.
    inner, outer = (torch.ones_like(theta), theta) if rule.orthogonal else (theta, 1.0)
    momentum = tuple(
        eta * s - inner * ((read * gamma[..., None]).mT @ wrong)
        for s, read, wrong in zip(state.momentum, factors[::2], factors[1::2], strict=True)
    )
    weight = tuple(
        (1 - alpha) * w + outer * (orthogonal(s, rule.orthogonal) if rule.orthogonal else s)
        for w, s in zip(state.weight, momentum, strict=True)
    )
    y = recall(tuple(retain(rule, w) for w in weight), q)
    return y, Learned(weight, momentum, anchor, state.age + 1, recent)


def titans_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rates: Rates,
    first: Matrices,
    state: Learned,
    start: Tensor,
    rule: Rule = PLAIN,
) -> tuple[Tensor, Learned]:
    """Same arguments and result as `rlmem.kernels.titans`."""
    outputs = []
    for t in range(q.shape[1]):
        state = reset(first, state, start[:, t])
        now = Rates(*(rate[:, t] for rate in rates.filled()))
        y, state = learn(q[:, t], k[:, t], v[:, t], now, state, rule)
        outputs.append(y)
    return torch.stack(outputs, 1), state


def reset(first: Matrices, state: Learned, start: Tensor) -> Learned:
    """The state before a token: at a `start` [B], the first A, no momentum, age 0, no tokens."""
    begins = start[:, None, None, None]
    recent = state.recent
    return Learned(
        tuple(torch.where(begins, w0, w) for w0, w in zip(first, state.weight, strict=True)),
        tuple(torch.where(begins, 0, s) for s in state.momentum),
        tuple(torch.where(begins, w0, a) for w0, a in zip(first, state.anchor, strict=True)),
        torch.where(start, 0, state.age),
        torch.where(begins, 0, recent) if isinstance(recent, Tensor) else (),
    )
