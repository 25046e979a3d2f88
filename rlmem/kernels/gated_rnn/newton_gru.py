"""A GRU solved for all steps of a row at once, by Newton's method or a quasi-Newton method.

`h` is the root of `f(h[t-1], x[t]) - h[t]`. An iteration linearises f at the last guess, solves
`d[t] = J[t] d[t-1] + (f(h[t-1], x[t]) - h[t])` by a scan and adds d: with the full Jacobians (DEER,
Lim et al. 2023, arXiv 2309.12252) or with their diagonals only (quasi-DEER, Gonzalez et al. 2024,
arXiv 2407.19115). Each iteration makes at least one more step of every episode exact, and keeps all
states within the bound `|h| <= max(1, |h0|)` of a GRU.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlmem.kernels.gated_rnn.newton_jacobian import (
    Gates,
    adjoint,
    dense_scan,
    differentiate,
    evaluate,
    states_before,
)
from rlmem.kernels.gated_rnn.ops import rnn, rnn_backward
from rlmem.kernels.linear_scan import linear_scan
from rlmem.kernels.native import check_shapes, check_tensors, same_dtype
from rlmem.kernels.operator import define

Grads = tuple[Tensor, Tensor, Tensor, Tensor]

# Jacobians are multiplied by DAMPING in episodes with a residual above FAR. With weights four times
# as large as torch's initial ones, Newton then takes 14 iterations; without, it gives up at 50.
# Where it converges without damping, damping costs one or two iterations more.
DAMPING, FAR = 0.8, 0.1


class Solution(NamedTuple):
    """`h` [B, T, D], and how it was reached.

    `residual` [B] is the largest |f(h[t-1], x[t]) - h[t]| of a row; `iterations` [] (int64) counts
    the linear systems solved; `sequential` [B] marks the rows with an episode that did not converge
    and was computed step by step instead.
    """

    h: Tensor
    residual: Tensor
    iterations: Tensor
    sequential: Tensor


def gru_parallel(
    projected: Tensor,
    weight: Tensor,
    bias: Tensor,
    h0: Tensor,
    start: Tensor,
    *,
    diagonal: bool = False,
    tolerance: float = 1e-6,
    max_iterations: int = 50,
) -> Solution:
    """The states of `torch.nn.GRU` (gate order r, z, n) over rows in which episodes start.

    `projected` [B, T, 3D] is the input's contribution to the gates; `weight` [3D, D] and `bias`
    [3D] give the state's; `h0` is [B, D]. At a `start` [B, T], the state before is zero, by a
    selection. float32 or float64, all of one dtype. With `diagonal` (quasi-Newton), an iteration
    needs T D numbers and convergence is linear; without, T D^3 operations, and it is quadratic.

    An episode is iterated until its residual is at most `tolerance` and is then left unchanged, so
    that it does not depend on other episodes or rows. An episode that has not converged after
    `max_iterations` is computed step by step: the result is always a solution.
    Differentiable in the first four arguments (with `diagonal` once) by the implicit function
    theorem: one linear recurrence backward with the true Jacobians at `h`, for any number of
    iterations; in parallel chunks, or with `diagonal` step by step. Raises `ValueError` for bad
    arguments.
    """
    _check(projected, weight, bias, h0, start)
    if tolerance <= 0 or max_iterations < 0:
        raise ValueError(
            f"gru_parallel: tolerance must be positive and max_iterations at least 0, "
            f"not {tolerance} and {max_iterations}"
        )
    return Solution(
        *_solve(projected, weight, bias, h0, start, diagonal, tolerance, max_iterations)
    )


@define(
    "gru_parallel",
    "(Tensor projected, Tensor weight, Tensor bias, Tensor h0, Tensor start, bool diagonal, "
    "float tolerance, int max_iterations) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _solve(
    projected: Tensor,
    weight: Tensor,
    bias: Tensor,
    h0: Tensor,
    start: Tensor,
    diagonal: bool,
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # In bfloat16 no residual would become small enough.
    with torch.autocast(projected.device.type, enabled=False):
        return _iterate(projected, weight, bias, h0, start, diagonal, tolerance, max_iterations)


def _iterate(
    projected: Tensor,
    weight: Tensor,
    bias: Tensor,
    h0: Tensor,
    start: Tensor,
    diagonal: bool,
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    h = torch.zeros_like(projected[..., : h0.shape[1]])
    episode = start.cumsum(1)
    limit = torch.where(episode == 0, h0.abs().amax(1, keepdim=True).clamp(min=1), 1)[..., None]
    for iteration in range(max_iterations + 1):
        at = evaluate(projected, weight, bias, states_before(h, h0, start))
        error = at.after - h
        worst = _worst(error, episode)
        done = worst <= tolerance
        if iteration == max_iterations or bool(done.all()):
            break
        step = _newton_step(at, error, weight, start, diagonal, worst)
        # Overflowed states restart from one step of the cell. The solution satisfies the bound, so
        # clamping moves no number further from its solution.
        guess = torch.where(step.isfinite(), h + step, at.after).clamp(-limit, limit)
        h = torch.where(done[..., None], h, guess)
    sequential = ~done.all(1)
    if sequential.any():
        h = torch.where(done[..., None], h, _step_by_step(projected, weight, bias, h0, start))
        error = evaluate(projected, weight, bias, states_before(h, h0, start)).after - h
    residual = error.abs().amax((1, 2))
    return h, residual, torch.tensor(iteration, device=h.device), sequential


def _worst(error: Tensor, episode: Tensor) -> Tensor:
    """The largest error of each step's episode, [B, T]; inf for an episode with a NaN."""
    each = error.abs().amax(2).nan_to_num(nan=torch.inf)
    worst = each.new_zeros(each.shape[0], each.shape[1] + 1)
    return worst.scatter_reduce(1, episode, each, "amax").gather(1, episode)


@torch.library.register_fake(_solve)
def _solve_fake(
    projected: Tensor, weight: Tensor, bias: Tensor, h0: Tensor, start: Tensor, *options: object
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, time, _ = projected.shape
    return (
        projected.new_empty(rows, time, h0.shape[1]),
        projected.new_empty(rows),
        projected.new_empty((), dtype=torch.int64),
        start.new_empty(rows),
    )


def _newton_step(
    at: Gates, error: Tensor, weight: Tensor, start: Tensor, diagonal: bool, worst: Tensor
) -> Tensor:
    """`d[t] = J[t] d[t-1] + error[t]`, from d = 0: the state before the row is known.

    In an episode far from its solution the Jacobians are damped: they may expand there, and are
    poor approximations.
    """
    derivative = differentiate(at, weight).scaled(torch.where(worst > FAR, DAMPING, 1.0))
    if diagonal:
        return linear_scan(derivative.diagonal(), error, None, start)
    return dense_scan(derivative, error, start)


def _step_by_step(
    projected: Tensor, weight: Tensor, bias: Tensor, h0: Tensor, start: Tensor
) -> Tensor:
    """The same states, by the operator that computes one step after the other."""
    both = 2 * h0.shape[1]
    four = torch.cat([bias[:both], torch.zeros_like(h0[0]), bias[both:]])
    given = projected[:, :, None], weight.t()[None], four[None], h0[:, None, None]
    return rnn("gru", *given, start, False)[0][:, :, 0]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.diagonal, _, _ = inputs
    h, *rest = output
    ctx.mark_non_differentiable(*rest)
    ctx.save_for_backward(*tensors, h)


def _backward(ctx: Any, grad_h: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    projected, weight, bias, h0, start, h = ctx.saved_tensors
    # Quasi-Newton was chosen because T D^3 operations are too many: its backward is step by step.
    back = _backward_step_by_step if ctx.diagonal else _backward_by_scan
    with torch.autocast(h.device.type, enabled=False):
        at = evaluate(projected, weight, bias, states_before(h, h0, start))
        return *back(at, grad_h, weight, h0, start, h), *(None,) * 4


def _backward_step_by_step(
    at: Gates, grad_h: Tensor, weight: Tensor, h0: Tensor, start: Tensor, h: Tensor
) -> Grads:
    """Gradients for projected, weight, bias and h0 by the operator that computes step by step."""
    activations = torch.cat([at.r, at.z, at.n, at.h_n], dim=-1)[:, :, None]
    row = start, h[:, :, None], activations, h.new_empty(*h.shape[:2], 1, 0)
    given = grad_h[:, :, None], None, weight.t()[None], h0[:, None, None]
    for_projected, for_weight, for_bias, for_h0 = rnn_backward("gru", *given, *row)
    both = 2 * h0.shape[1]
    for_bias = torch.cat([for_bias[0, :both], for_bias[0, -h0.shape[1] :]])
    return for_projected[:, :, 0], for_weight[0].t(), for_bias, for_h0[:, 0, 0]


def _backward_by_scan(
    at: Gates, grad_h: Tensor, weight: Tensor, h0: Tensor, start: Tensor, h: Tensor
) -> Grads:
    """The same by one scan with dense Jacobians; the rest is computed for all steps at once."""
    derivative = differentiate(at, weight)
    wrt_h = adjoint(derivative, grad_h, start)
    for_recurrent = derivative.slopes * wrt_h[..., None, :]
    for_r, for_z, for_h_n = for_recurrent.unbind(-2)
    for_n = wrt_h * (1 - at.z) * (1 - at.n * at.n)
    for_h0 = derivative.at(slice(None), 0).transposed_times(wrt_h[:, 0])
    return (
        torch.cat([for_r, for_z, for_n], dim=-1),
        torch.einsum("btg,btd->gd", for_recurrent.flatten(-2), at.before),
        torch.cat([for_r, for_z, for_h_n], dim=-1).sum((0, 1)),
        torch.where(start[:, :1], 0, for_h0),
    )


torch.library.register_autograd(_solve, _backward, setup_context=_setup)


@torch.library.register_vmap(_solve)
def _vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, tuple[int, ...]]:
    """Fold the mapped dimension into the rows; rows solved together share their iterations.

    Rows share the weights, so mapped weights are computed one by one.
    """
    size = info.batch_size
    moved = [x if d is None else x.movedim(d, 0) for x, d in zip(args, in_dims, strict=True)]
    per_example = [x if d is not None else (x,) * size for x, d in zip(moved, in_dims, strict=True)]
    if in_dims[1] is not None or in_dims[2] is not None:
        each = [_solve(*example) for example in zip(*per_example, strict=True)]
        return tuple(map(torch.stack, zip(*each, strict=True))), (0, 0, 0, 0)
    rows = {0, 3, 4}
    folded = (torch.cat(list(x)) if i in rows else moved[i] for i, x in enumerate(per_example))
    h, residual, iterations, sequential = _solve(*folded)
    unfolded = (x.unflatten(0, (size, -1)) for x in (h, residual, sequential))
    h, residual, sequential = unfolded
    return (h, residual, iterations.expand(size), sequential), (0, 0, 0, 0)


def _check(projected: Tensor, weight: Tensor, bias: Tensor, h0: Tensor, start: Tensor) -> None:
    named = {"projected": projected, "weight": weight, "bias": bias, "h0": h0, "start": start}
    check_tensors("gru_parallel", named, same_dtype(projected, (torch.float32, torch.float64)))
    if projected.dim() != 3 or 0 in projected.shape or projected.shape[2] % 3:
        raise ValueError(
            f"gru_parallel: projected must be [B, T, 3D], each at least 1, "
            f"not {list(projected.shape)}"
        )
    rows, time, gates = projected.shape
    size = gates // 3
    wanted = {"weight": (weight, (gates, size)), "bias": (bias, (gates,))}
    wanted |= {"h0": (h0, (rows, size)), "start": (start, (rows, time))}
    check_shapes("gru_parallel", wanted)
