"""A bound on the error of approximate GRU states, from their residual.

With e[t] the error and r[t] the residual, `|e[t]| <= (|J[t]| + K |e[t-1]| / 2) |e[t-1]| + |r[t]|`
in the 2-norm, where J is the derivative at the given states and K bounds the second derivative
between given and exact states. If a scan that puts a radius for the |e[t-1]| in the bracket stays
within that radius, then, by induction over the steps, so does the error.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlmem.kernels.gated_rnn.newton_jacobian import (
    Derivative,
    Gates,
    dense_scan,
    differentiate,
    evaluate,
    states_before,
)
from rlmem.kernels.linear_scan import linear_scan


class ErrorBound(NamedTuple):
    """`bound` [B, T]: at least the 2-norm of h's error; inf where nothing could be proved.

    `rho` [B] is the largest 2-norm of a step's derivative in a row. If it is below 1, every step
    contracts and `bound` is at most about |r| / (1 - rho). `residual` [B, T] is |r|. `estimate`
    [B, T] is the error to first order, the length of the next Newton step: no proof, but useful if
    steps contract only jointly.
    """

    bound: Tensor
    rho: Tensor
    residual: Tensor
    estimate: Tensor


@torch.no_grad()
def gru_error_bound(
    projected: Tensor, weight: Tensor, bias: Tensor, h0: Tensor, start: Tensor, h: Tensor
) -> ErrorBound:
    """A bound on the error of `h` as the states of a GRU; other arguments as in `gru_parallel`.

    Valid in exact arithmetic: the rounding error of the residual itself, some units in the last
    place, is not included. If steps expand, the bound grows with their product and soon proves
    nothing. Costs a singular value decomposition per step: meant for analysis, not for training.
    """
    at = evaluate(projected, weight, bias, states_before(h, h0, start))
    known = start.clone()
    known[:, 0] = True  # the state before the row, or before an episode, has no error
    derivative = differentiate(at, weight)
    norm = torch.where(known, 0, _norms(derivative))
    residual = torch.linalg.vector_norm(at.after - h, dim=-1)
    step = dense_scan(derivative, at.after - h, start)
    estimate = torch.linalg.vector_norm(step, dim=-1).nan_to_num(nan=torch.inf)

    def errors(slack: Tensor) -> Tensor:
        gate = (norm + slack[:, None])[..., None]
        return linear_scan(gate, residual[..., None], None, known).squeeze(-1)

    radius = 2 * errors(torch.zeros_like(norm[:, 0])).amax(1)
    bound = errors(_second_derivative(at, weight, h, radius) * radius / 2)
    proved = (bound <= radius[:, None]).all(1) & radius.isfinite()
    return ErrorBound(bound.where(proved[:, None], torch.inf), norm.amax(1), residual, estimate)


def _norms(derivative: Derivative) -> Tensor:
    """|J[t]|, [B, T], step by step: all matrices at once would need T times the memory."""
    steps = range(derivative.z.shape[1])
    each = [torch.linalg.matrix_norm(derivative.at(slice(None), t).matrix(), 2) for t in steps]
    return torch.stack(each, dim=1)


def _second_derivative(at: Gates, weight: Tensor, h: Tensor, radius: Tensor) -> Tensor:
    """K [B], a bound on the second derivative within `radius` [B] of the states before each step.

    f = n + z (h - n) has (1 - z) n'' + 2 z' (h' - n') + z'' (h - n), and s' <= 1/4,
    |s''| <= 1/(6 sqrt 3), |tanh''| <= 4/(3 sqrt 3) for the logistic s. |a b| <= |a| |b| also holds
    elementwise.
    """
    w_r, w_z, w_n = torch.linalg.matrix_norm(weight.unflatten(0, (3, -1)), 2)
    bend = 1 / (6 * 3**0.5)
    h_n = at.h_n.abs().amax((1, 2)) + w_n * radius
    reach = 1 + torch.maximum(h.abs().amax((1, 2)), at.before.abs().amax((1, 2))) + radius
    slope = w_n + h_n * w_r / 4
    candidate = 8 * bend * slope**2 + bend * h_n * w_r**2 + w_r * w_n / 2
    return candidate + bend * reach * w_z**2 + w_z / 2 * (1 + slope)
