"""The delta rule in chunks (WY form): torch matrix products, for any device.

In a chunk of M steps, with G the cumulative logarithms of the decay and S the state before it,

    D[i, j] = exp(G[i] - G[j])  and  e[i] = exp(G[i])
    (I + A) U = beta (V - e K S),    A = beta (D * K K^T) below the diagonal
    O = e Q S + (D * Q K^T) U        on and below the diagonal
    S' = e[M-1] S + (D[M-1] K)^T U

where row j of `U` is what step j adds to the state along its key. `D` is zero between steps of
different episodes and `e` is zero after a start: values before a start are multiplied by zero.
The logarithm of the decay at a start has no effect and is set to zero.
(Yang et al. 2024, arXiv 2406.06484, section 3; Yang et al. 2025, arXiv 2412.06464, section 3.3.)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 16  # steps; 8 to 32 differ by less than a fifth in CPU time
BLOCK = 2**17  # numbers of each tensor that are processed at once, so that they stay in the cache


class Chunks(NamedTuple):
    """N chunks of a row: `q`, `k` [N, B, H, M, K], `v` [N, B, H, M, V], `beta` [N, B, H, M, 1].

    `D` [N, B, H, M, M] and `e` [N, B, H, M, 1] are the factors by which step i finds the write at j
    and the state before the chunk decayed; H is 1 in both without decay. `same` [N, B, 1, M, M]:
    j is no later than i and in the same episode.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    D: Tensor
    e: Tensor
    same: Tensor

    def last(self) -> tuple[Tensor, Tensor]:
        """Factors at the chunk's end: `D[M-1] K` [N, B, H, M, K], and `e[M-1]` [N, B, H, 1, 1]."""
        return self.D[..., -1, :, None] * self.k, self.e[..., -1:, :]


class Inputs(NamedTuple):
    """The operator's arguments without the state."""

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    g: Tensor | None
    start: Tensor


def forward(inputs: Inputs, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`o` [B, T, H, V], the last state, and the states before each chunk [B, N, H, K, V]."""
    size, spans = chunk_spans(inputs.k)
    state = state.contiguous()
    o, befores = inputs.v.new_empty(inputs.v.shape), []
    for at in spans:
        x = gather(inputs, at, size)
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
    grad_o: Tensor, grad_last: Tensor, inputs: Inputs, befores: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients for q, k, v, beta, g (empty if not given) and the first state."""
    size, spans = chunk_spans(inputs.k)
    grad_last = grad_last.contiguous()
    grads = [inputs.k.new_empty(0 if x is None else x.shape) for x in inputs[:5]]
    for at in reversed(spans):
        x = gather(inputs, at, size)
        S = befores[:, at.start // size : -(-at.stop // size)].transpose(0, 1).contiguous()
        *parts, grad_last = block_backward(cut(grad_o[:, at], size), grad_last, x, S)
        for part, whole in zip(parts, grads, strict=True):
            if len(whole):
                scatter(part, whole, at)
    dq, dk, dv, d_beta, dg = grads
    if len(dg):
        dg.masked_fill_(inputs.start[..., None], 0)
    return dq, dk, dv, d_beta, dg, grad_last


def block_backward(
    dO: Tensor, d_last: Tensor, x: Chunks, S: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`backward` of the chunks `x` with the states `S` before them; gradients in chunks."""
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
    # The gradient of k in the prediction S'^T k, which is subtracted from the value.
    predict = x.e * (dR @ S.mT) + dA @ x.k
    kept = x.D[..., -1, :, None] * (U @ d_after.mT)
    dk = dQK.mT @ x.q - (x.beta * dA).mT @ x.k - x.beta * predict + kept
    predicted = dot(x.k, predict)
    d_beta = dot(dR, x.v) - predicted
    # G enters as exp(G) with every q and every k of a prediction, as exp(-G) with every k written.
    dG = dot(x.q, dq) - dot(x.k, dk) - 2 * x.beta * predicted
    dG[..., -1, :] += dot(x.k, kept).sum(-2) + (e_left * S * d_after).sum((-2, -1))[..., None]
    dg = (dG.squeeze(-1) @ x.same.squeeze(2).to(dG.dtype))[..., None]
    return dq, dk, x.beta * dR, d_beta, dg, d_last


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Dot products of rows, [..., M, 1]."""
    return torch.linalg.vecdot(a, b)[..., None]


def solve(x: Chunks) -> tuple[Tensor, Tensor]:
    """`inverse` of I + A [N, B, H, M, M], and `W = inverse (beta e K)`, the factor of -S in U."""
    A = x.beta * x.D * (x.k @ x.k.mT)
    one = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    inverse = torch.linalg.solve_triangular(A, one, upper=False, unitriangular=True)
    return inverse, inverse @ (x.beta * x.e * x.k)


def chunk_spans(k: Tensor) -> tuple[int, list[slice]]:
    """The steps of a chunk, and the time slices of whole chunks that are processed at once."""
    rows, time, heads, width = k.shape
    size = min(CHUNK, time)
    steps = size * max(1, BLOCK // (rows * heads * width * size))
    return size, [slice(a, min(a + steps, time)) for a in range(0, time, steps)]


def gather(inputs: Inputs, at: slice, size: int) -> Chunks:
    """The steps `at` in chunks; padding in the last chunk neither writes nor forgets."""
    q, k, v, beta = (
        cut(x[:, at], size) for x in (inputs.q, inputs.k, inputs.v, inputs.beta[..., None])
    )
    starts = cut(inputs.start[:, at, None, None], size).squeeze(-1)
    episode = starts.cumsum(-1)
    same = (episode[..., :, None] == episode[..., None, :]).tril()
    if inputs.g is None:
        return Chunks(q, k, v, beta, same.to(k.dtype), (episode == 0).to(k.dtype)[..., None], same)
    # In float64: sums of large decays must not cost small ones their precision.
    wide = torch.where(starts, 0, cut(inputs.g[:, at, :, None], size).squeeze(-1).double())
    # The sum restarts at every start, so that earlier values do not affect its rounding.
    G = wide @ same.squeeze(2).mT.double()
    D = (G[..., :, None] - G[..., None, :]).to(k.dtype).masked_fill(~same, -torch.inf).exp()
    e = G.to(k.dtype).masked_fill(episode > 0, -torch.inf).exp()
    return Chunks(q, k, v, beta, D, e[..., None], same)


def cut(x: Tensor, size: int) -> Tensor:
    """[B, T, H, D] in chunks [N, B, H, size, D]; the last one is padded with zeros."""
    x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % size))
    return x.unflatten(1, (-1, size)).permute(1, 0, 3, 2, 4).contiguous()


def scatter(x: Tensor, whole: Tensor, at: slice) -> None:
    """`whole[:, at] = x`, with `x` in chunks."""
    flat = x.permute(1, 0, 3, 2, 4).flatten(1, 2)[:, : at.stop - at.start]
    whole[:, at] = flat.reshape(whole[:, at].shape)
