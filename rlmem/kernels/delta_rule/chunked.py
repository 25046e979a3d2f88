"""The delta rule in chunks (the WY form): matrix products of torch, on any device.

Inside a chunk of M steps, with the decay's logarithms summed up to G and S the state before it,

    D[i, j] = exp(G[i] - G[j])  and  e[i] = exp(G[i])
    (I + A) U = beta (V - e K S),    A = beta (D * K K^T) below the diagonal
    O = e Q S + (D * Q K^T) U        on and below the diagonal
    S' = e[M-1] S + (D[M-1] K)^T U

where row j of `U` is what step j adds to the state along its key. `D` is zero between the steps of
two episodes and `e` is zero after a start, so that what lies before a start is multiplied by zero.
The logarithm of a start's own decay, which nothing reads, is taken as zero.
(Yang et al. 2024, arXiv 2406.06484, section 3; Yang et al. 2025, arXiv 2412.06464, section 3.3.)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 16  # steps; 8 to 32 take the same time on a CPU, within a fifth
BLOCK = 2**17  # numbers of each kind that are worked on at once, so that they stay in the cache


class Chunks(NamedTuple):
    """N chunks of a row: `q`, `k` [N, B, H, M, K], `v` [N, B, H, M, V], `beta` [N, B, H, M, 1].

    `D` [N, B, H, M, M] and `e` [N, B, H, M, 1]: what step i finds of what was written at j, and of
    the state before the chunk; H is 1 in both where nothing decays. `same` [N, B, 1, M, M]: j is
    not after i and of its episode.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    D: Tensor
    e: Tensor
    same: Tensor

    def last(self) -> tuple[Tensor, Tensor]:
        """What is left at the end: `D[M-1] K` [N, B, H, M, K], and `e[M-1]` [N, B, H, 1, 1]."""
        return self.D[..., -1, :, None] * self.k, self.e[..., -1:, :]


class Row(NamedTuple):
    """The arguments of the operator but for the state."""

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    g: Tensor | None
    start: Tensor


def forward(row: Row, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`o` [B, T, H, V], the last state, and the states before each chunk [B, N, H, K, V]."""
    size, spans = plan(row.k)
    state = state.contiguous()
    o, befores = row.v.new_empty(row.v.shape), []
    for at in spans:
        x = gather(row, at, size)
        inverse, W = solve(x)
        added, left = inverse @ (x.beta * x.v), x.last()
        states, U = [], []
        for n in range(len(W)):
            states.append(state)
            U.append(added[n] - W[n] @ state)
            state = left[1][n] * state + left[0][n].mT @ U[n]
        S = torch.stack(states)
        befores.append(S.transpose(0, 1))
        scatter(x.e * (x.q @ S) + (x.D * (x.q @ x.k.mT)) @ torch.stack(U), o, at)
    return o, state, torch.cat(befores, dim=1)


def backward(
    grad_o: Tensor, grad_last: Tensor, row: Row, befores: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients for q, k, v, beta, g (empty where there is none) and the first state."""
    size, spans = plan(row.k)
    grad_last = grad_last.contiguous()
    grads = [row.k.new_empty(0 if x is None else x.shape) for x in row[:5]]
    for at in reversed(spans):
        x = gather(row, at, size)
        S = befores[:, at.start // size : -(-at.stop // size)].transpose(0, 1).contiguous()
        *parts, grad_last = block_backward(cut(grad_o[:, at], size), grad_last, x, S)
        for part, whole in zip(parts, grads, strict=True):
            if len(whole):
                scatter(part, whole, at)
    dq, dk, dv, d_beta, dg = grads
    if len(dg):
        dg.masked_fill_(row.start[..., None], 0)
    return dq, dk, dv, d_beta, dg, grad_last


def block_backward(
    dO: Tensor, d_last: Tensor, x: Chunks, S: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`backward` of the chunks `x`, which found the states `S`; the gradients in chunks."""
    inverse, W = solve(x)
    U = inverse @ (x.beta * x.v) - W @ S
    (K_left, e_left), QK = x.last(), x.D * (x.q @ x.k.mT)
    dU, dS, afters = QK.mT @ dO, (x.e * x.q).mT @ dO, []
    for n in reversed(range(len(W))):
        afters.append(d_last)
        dU[n] += K_left[n] @ d_last
        d_last = e_left[n] * d_last + dS[n] - W[n].mT @ dU[n]
    d_after = torch.stack(afters[::-1])
    dR = inverse.mT @ dU
    dQK, dA = x.D * (dO @ U.mT), (x.D * (dR @ U.mT)).tril(-1)
    dq = x.e * (dO @ S.mT) + dQK @ x.k
    # What multiplies a key where it predicts the value that is then subtracted.
    predict = x.e * (dR @ S.mT) + dA @ x.k
    kept = x.D[..., -1, :, None] * (U @ d_after.mT)
    dk = dQK.mT @ x.q - (x.beta * dA).mT @ x.k - x.beta * predict + kept
    predicted = dot(x.k, predict)
    d_beta = dot(dR, x.v) - predicted
    # Every q, and every k that predicts, brings a factor exp(G); a k that was written exp(-G).
    dG = dot(x.q, dq) - dot(x.k, dk) - 2 * x.beta * predicted
    dG[..., -1, :] += dot(x.k, kept).sum(-2) + (e_left * S * d_after).sum((-2, -1))[..., None]
    dg = (dG.squeeze(-1) @ x.same.squeeze(2).to(dG.dtype))[..., None]
    return dq, dk, x.beta * dR, d_beta, dg, d_last


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Products of rows, [..., M, 1]."""
    return torch.linalg.vecdot(a, b)[..., None]


def solve(x: Chunks) -> tuple[Tensor, Tensor]:
    """`inverse` of I + A [N, B, H, M, M], and `W = inverse (beta e K)`: what S takes from U."""
    A = x.beta * x.D * (x.k @ x.k.mT)
    one = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    inverse = torch.linalg.solve_triangular(A, one, upper=False, unitriangular=True)
    return inverse, inverse @ (x.beta * x.e * x.k)


def plan(k: Tensor) -> tuple[int, list[slice]]:
    """Steps of a chunk, and the blocks of whole chunks that a row is worked off in."""
    rows, time, heads, width = k.shape
    size = min(CHUNK, time)
    steps = size * max(1, BLOCK // (rows * heads * width * size))
    return size, [slice(a, min(a + steps, time)) for a in range(0, time, steps)]


def gather(row: Row, at: slice, size: int) -> Chunks:
    """The steps `at` in chunks; what is missing in the last one neither writes nor forgets."""
    q, k, v, beta = (cut(x[:, at], size) for x in (row.q, row.k, row.v, row.beta[..., None]))
    starts = cut(row.start[:, at, None, None], size).squeeze(-1)
    episode = starts.cumsum(-1)
    same = (episode[..., :, None] == episode[..., None, :]).tril()
    if row.g is None:
        return Chunks(q, k, v, beta, same.to(k.dtype), (episode == 0).to(k.dtype)[..., None], same)
    # In float64: decays of thousands may stand beside others that must keep their precision.
    wide = torch.where(starts, 0, cut(row.g[:, at, :, None], size).squeeze(-1).double())
    # The sum begins anew at every start, lest what lies before it move the rounding.
    G = wide @ same.squeeze(2).mT.double()
    D = (G[..., :, None] - G[..., None, :]).to(k.dtype).masked_fill(~same, -torch.inf).exp()
    e = G.to(k.dtype).masked_fill(episode > 0, -torch.inf).exp()
    return Chunks(q, k, v, beta, D, e[..., None], same)


def cut(x: Tensor, size: int) -> Tensor:
    """[B, T, H, D] in chunks [N, B, H, size, D]; zeros fill the last one."""
    x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % size))
    return x.unflatten(1, (-1, size)).permute(1, 0, 3, 2, 4).contiguous()


def scatter(x: Tensor, whole: Tensor, at: slice) -> None:
    """`whole[:, at] = x`, with `x` in chunks."""
    flat = x.permute(1, 0, 3, 2, 4).flatten(1, 2)[:, : at.stop - at.start]
    whole[:, at] = flat.reshape(whole[:, at].shape)
