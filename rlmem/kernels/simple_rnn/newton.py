"""ParaGRU for all steps of a row at once, by Newton's method.

(Danieli et al. 2025, arXiv 2510.21450, section 2.) The states h are the root of
`f(h[t-1], x[t]) - h[t]`. As units do not interact, the derivative of f is diagonal, and a Newton
step is one linear scan:

    d[t] = J[t] d[t-1] + (f(h[t-1], x[t]) - h[t]),   h = h + d

Each iteration makes at least one more step of every episode exact. A row that has not converged
after `MAX_ITERATIONS` is computed step by step. The backward is one linear scan too, with the
derivatives at the solution.

On the CPU the loop in C is faster (docs/parallel-rnn.md), since each iteration evaluates f as often
as the whole loop does. On CUDA devices, where a loop launches kernels for each step, this form is
used. It has not been measured on one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlmem.kernels.linear_scan import linear_scan
from rlmem.kernels.simple_rnn import torch_form
from rlmem.kernels.simple_rnn.cells import CELLS, Tensors

MAX_ITERATIONS = 30
SHORT = 32  # steps; rows with fewer are computed step by step


def supports(cell: str, x: Tensor) -> bool:
    """Whether rows like `x` [B, T, P D] of this cell are solved by Newton's method."""
    return cell == "paragru" and x.device.type == "cuda" and x.shape[1] >= SHORT


def forward(
    cell: str, projected: Tensor, weight: Tensor, state: Tensor, start: Tensor, scale: float
) -> Tensor:
    """Same as `torch_form.forward`, for cells with one state, up to rounding errors."""
    with torch.no_grad():
        h, done = solve(cell, projected, weight, state, start)
    rest = (~done).nonzero().flatten()
    if len(rest):
        rows = projected[rest], weight, state[rest], start[rest]
        h[rest] = torch_form.forward(cell, *rows, scale)
    return h


def solve(
    cell: str, projected: Tensor, weight: Tensor, state: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """The states after `MAX_ITERATIONS` or fewer, and the rows [B] that have converged.

    A row has if its largest residual is at most 8 units in the last place of 1.
    """
    kind = CELLS[cell]
    tolerance = 8 * torch.finfo(projected.dtype).eps
    limit = state.abs().clamp(min=1)[:, None]  # of the solution: c is within +-1
    (h,) = kind.forward(
        projected, (torch.zeros_like(projected[..., : state.shape[1]]),), weight, 1.0
    )
    for _ in range(MAX_ITERATIONS):
        before = _before(h, state, start)
        (after,) = kind.forward(projected, before, weight, 1.0)
        error = after - h
        done = error.abs().amax((1, 2)) <= tolerance
        if bool(done.all()):
            break
        gate = kind.prepare(projected, before, (after,), weight, 1.0)[3]
        step = h + linear_scan(gate, error, None, start)
        # Overflowed states restart from one step of the cell.
        step = torch.where(step.isfinite(), step, after).clamp(-limit, limit)
        h = torch.where(done[:, None, None], after, step)
    return torch.where(done[:, None, None], after, h), done


def backward(
    cell: str,
    grad: Tensor,
    projected: Tensor,
    weight: Tensor,
    state: Tensor,
    start: Tensor,
    states: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Same as `torch_form.backward`, for cells with one state, in one scan."""
    kind = CELLS[cell]
    before = _before(states, state, start)
    factors = kind.prepare(projected, before, (states,), weight, scale)
    gate = factors[3]
    # The gradient for h[t] is grad[t] + gate[t+1] times that for h[t+1].
    later = torch.cat([gate[:, 1:], torch.zeros_like(gate[:, :1])], dim=1)
    ends = torch.cat([start[:, 1:], torch.ones_like(start[:, :1])], dim=1)
    total = linear_scan(later, grad, None, ends, reverse=True)
    grad_projected, (for_before,) = kind.backward(factors, (total,), weight)
    flat = [tuple(each.flatten(0, 1) for each in tree) for tree in (before, (states,), factors)]
    grad_weight = kind.weight_grad(grad_projected.flatten(0, 1), *flat)
    return grad_projected, grad_weight, for_before[:, 0].masked_fill(start[:, :1], 0)


def _before(h: Tensor, state: Tensor, start: Tensor) -> Tensors:
    """The state before each step."""
    shifted = torch.cat([state[:, None], h[:, :-1]], dim=1)
    return (shifted.masked_fill(start[..., None], 0),)
