"""The GRU at all steps of a row at once: values, Jacobians, and scans with the Jacobians.

With `before` the states h[t-1], the Jacobian of one step with respect to h[t-1] is

    J = diag(z) + diag(a_r) W_r + diag(a_z) W_z + diag(a_n) W_n,    c = (1 - z) (1 - n^2),
    a_r = c (W_n h + b_n) r (1 - r),   a_z = (h - n) z (1 - z),   a_n = c r.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Gates(NamedTuple):
    """Results of each step, all [B, T, D]; `h_n` is the state's contribution to the candidate."""

    r: Tensor
    z: Tensor
    n: Tensor
    h_n: Tensor
    before: Tensor

    @property
    def after(self) -> Tensor:
        """The step's result, h[t]."""
        return torch.lerp(self.n, self.before, self.z)


class Derivative(NamedTuple):
    """J in factored form: `z` [..., D], `slopes` [..., 3, D] (a_r, a_z, a_n), weights [3, D, D]."""

    z: Tensor
    slopes: Tensor
    weight: Tensor

    def at(self, *index: slice | int) -> Derivative:
        """J at these positions only."""
        return Derivative(self.z[index], self.slopes[index], self.weight)

    def scaled(self, factor: Tensor) -> Derivative:
        """`factor` [...] times J."""
        factor = factor[..., None].to(self.z.dtype)
        return Derivative(factor * self.z, factor[..., None] * self.slopes, self.weight)

    def diagonal(self) -> Tensor:
        """J's diagonal, [..., D]."""
        return self.z + (self.slopes * self.weight.diagonal(dim1=1, dim2=2)).sum(-2)

    def matrix(self) -> Tensor:
        """J, [..., D, D]."""
        matrix = torch.diag_embed(self.z)
        for gate in range(3):
            matrix = matrix + self.slopes[..., gate, :, None] * self.weight[gate]
        return matrix

    def times(self, x: Tensor) -> Tensor:
        """J x, without forming J."""
        products = F.linear(x, self.weight.flatten(0, 1)).unflatten(-1, (3, -1))
        return self.z * x + (self.slopes * products).sum(-2)

    def transposed_times(self, x: Tensor) -> Tensor:
        """J^T x, without forming J."""
        return self.z * x + (self.slopes * x[..., None, :]).flatten(-2) @ self.weight.flatten(0, 1)


def evaluate(projected: Tensor, weight: Tensor, bias: Tensor, before: Tensor) -> Gates:
    """Every step of the row, each from its state `before`."""
    x_r, x_z, x_n = projected.chunk(3, dim=-1)
    h_r, h_z, h_n = F.linear(before, weight, bias).chunk(3, dim=-1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    return Gates(r, z, torch.tanh(x_n + r * h_n), h_n, before)


def differentiate(at: Gates, weight: Tensor) -> Derivative:
    """J at every step."""
    r, z, n, h_n, before = at
    c = (1 - z) * (1 - n * n)
    slopes = torch.stack([c * h_n * r * (1 - r), (before - n) * z * (1 - z), c * r], dim=-2)
    return Derivative(z, slopes, weight.unflatten(0, (3, -1)))


def states_before(h: Tensor, h0: Tensor, start: Tensor) -> Tensor:
    """h[t-1] at every step: `h0` at the first, zero at a start."""
    return torch.where(start[..., None], 0, torch.cat([h0[:, None], h[:, :-1]], dim=1))


def dense_scan(
    derivative: Derivative, value: Tensor, start: Tensor, *, transposed: bool = False
) -> Tensor:
    """`x[t] = J[t] (0 if start[t] else x[t-1]) + value[t]` from x[-1] = 0; or J[t]^T.

    About sqrt(T) chunks are computed in parallel, each with its product of matrices: 3 sqrt(T)
    sequential steps, and D times the work of T products of a matrix and a vector.
    """
    rows, time, size = value.shape
    length = math.isqrt(time - 1) + 1
    chunks = -(-time // length)

    def cut(x: Tensor) -> Tensor:
        missing = x.new_zeros(rows, chunks * length - time, *x.shape[2:])
        return torch.cat([x, missing], dim=1).unflatten(1, (chunks, length))

    chunked = Derivative(cut(derivative.z), cut(derivative.slopes), derivative.weight)
    values, starts = cut(value), cut(start)
    times = Derivative.transposed_times if transposed else Derivative.times

    def advance(x: Tensor, t: int) -> Tensor:
        moved = times(chunked.at(slice(None), slice(None), t), x)
        return torch.where(starts[:, :, t, None], 0, moved) + values[:, :, t]

    end = value.new_zeros(rows, chunks, size)
    product = torch.eye(size, dtype=value.dtype, device=value.device)
    for t in range(length):
        end = advance(end, t)
        matrix = chunked.at(slice(None), slice(None), t).matrix()
        product = (matrix.mT if transposed else matrix) @ product
        product = torch.where(starts[:, :, t, None, None], 0, product)
    x, states = _states_before_chunks(end, product, starts.any(dim=2)), []
    for t in range(length):
        x = advance(x, t)
        states.append(x)
    return torch.stack(states, dim=2).flatten(1, 2)[:, :time]


def _states_before_chunks(end: Tensor, product: Tensor, started: Tensor) -> Tensor:
    """The state before each chunk, [B, N, D].

    `end` is the state after each chunk that begins at zero; `product` maps any state through it.
    """
    x = torch.zeros_like(end[:, 0])
    states = [x]
    for k in range(end.shape[1] - 1):
        moved = (product[:, k] @ x[..., None]).squeeze(-1)
        x = end[:, k] + torch.where(started[:, k, None], 0, moved)
        states.append(x)
    return torch.stack(states, dim=1)


def adjoint(derivative: Derivative, grad_h: Tensor, start: Tensor) -> Tensor:
    """`x[t] = grad_h[t] + J[t+1]^T (0 if start[t+1] else x[t+1])`, backward in time."""

    def ahead(x: Tensor) -> Tensor:
        """The values of the next step, zero after the last; in reversed time."""
        return torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], dim=1).flip(1)

    reversed_time = Derivative(ahead(derivative.z), ahead(derivative.slopes), derivative.weight)
    x = dense_scan(reversed_time, grad_h.flip(1), ahead(start), transposed=True)
    return x.flip(1)
