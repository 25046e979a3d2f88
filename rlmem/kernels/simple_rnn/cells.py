"""The cells of `simple_rnn`: one time step forward, and the three parts of its backward, in torch.

`x` is the input's contribution to the pre-activations, [.., P D], biases included. A state is a
tuple of tensors [.., D], the output first. `weight` is [D, P D], or [D] for an elementwise cell.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]


class Cell(NamedTuple):
    """`parts` pre-activations per unit, `states` tensors in the state, and the passes.

    `forward(x, state, weight, scale)` is one step. The backward of a row has three parts:
    `prepare(x, before, after, weight, scale)` computes the factors of all steps at once from the
    states before and after each step; `backward(factors, grads, weight)` is one step back in time,
    from the gradients of the state after to those of `x` and of the state before;
    `weight_grad(grad_x, before, after, factors)` is the weight's gradient, from all steps [N, ..].
    """

    parts: int
    states: int
    elementwise: bool
    forward: Callable[[Tensor, Tensors, Tensor, float], Tensors]
    prepare: Callable[[Tensor, Tensors, Tensors, Tensor, float], Tensors]
    backward: Callable[[Tensors, Tensors, Tensor], tuple[Tensor, Tensors]]
    weight_grad: Callable[[Tensor, Tensors, Tensors, Tensors], Tensor]


def activate(x: Tensor, relu: bool) -> Tensor:
    return torch.relu(x) if relu else torch.tanh(x)


def slope(h: Tensor, relu: bool) -> Tensor:
    """The derivative of the activation, from its result."""
    return (h > 0).to(h.dtype) if relu else 1 - h * h


def elman(x: Tensor, state: Tensors, weight: Tensor, scale: float, *, relu: bool) -> Tensors:
    """h' = tanh(x + U h), or relu."""
    return (activate(x + state[0] @ weight, relu),)


def elman_back(factors: Tensors, grads: Tensors, weight: Tensor) -> tuple[Tensor, Tensors]:
    for_x = grads[0] * factors[0]
    return for_x, (for_x @ weight.t(),)


def elman_weight(for_x: Tensor, before: Tensors, after: Tensors, factors: Tensors) -> Tensor:
    return before[0].t() @ for_x


def indrnn(x: Tensor, state: Tensors, weight: Tensor, scale: float, *, relu: bool) -> Tensors:
    """h' = relu(x + u * h), or tanh."""
    return (activate(x + state[0] * weight, relu),)


def indrnn_back(factors: Tensors, grads: Tensors, weight: Tensor) -> tuple[Tensor, Tensors]:
    for_x = grads[0] * factors[0]
    return for_x, (for_x * weight,)


def indrnn_weight(for_x: Tensor, before: Tensors, after: Tensors, factors: Tensors) -> Tensor:
    return (before[0] * for_x).sum(0)


def activation_slope(
    x: Tensor, before: Tensors, after: Tensors, weight: Tensor, scale: float, *, relu: bool
) -> Tensors:
    return (slope(after[0], relu),)


def mgu(x: Tensor, state: Tensors, weight: Tensor, scale: float) -> Tensors:
    """f = s(x_f + U_f h); c = tanh(x_c + U_c (f h)); h' = (1 - f) h + f c."""
    f, c = mgu_gates(x, state[0], weight)
    return (torch.lerp(state[0], c, f),)


def mgu_gates(x: Tensor, h: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    x_f, x_c = x.chunk(2, dim=-1)
    u_f, u_c = weight.chunk(2, dim=-1)
    f = torch.sigmoid(x_f + h @ u_f)
    return f, torch.tanh(x_c + (f * h) @ u_c)


def mgu_prepare(
    x: Tensor, before: Tensors, after: Tensors, weight: Tensor, scale: float
) -> Tensors:
    h = before[0]
    f, c = mgu_gates(x, h, weight)
    for_f = f * (1 - f)
    return f, f * (1 - c * c), (c - h) * for_f, h * for_f


def mgu_back(factors: Tensors, grads: Tensors, weight: Tensor) -> tuple[Tensor, Tensors]:
    f, of_c, of_f, of_f_through_c = factors
    u_f, u_c = weight.chunk(2, dim=-1)
    (grad,) = grads
    for_c = grad * of_c
    for_gated = for_c @ u_c.t()  # of f h
    for_f = torch.addcmul(grad * of_f, for_gated, of_f_through_c)
    for_h = grad + f * (for_gated - grad) + for_f @ u_f.t()
    return torch.cat([for_f, for_c], dim=-1), (for_h,)


def mgu_weight(for_x: Tensor, before: Tensors, after: Tensors, factors: Tensors) -> Tensor:
    for_f, for_c = for_x.chunk(2, dim=-1)
    h, f = before[0], factors[0]
    return torch.cat([h.t() @ for_f, (f * h).t() @ for_c], dim=-1)


def lem(x: Tensor, state: Tensors, weight: Tensor, scale: float) -> Tensors:
    """a, b = scale s(x_1 + W_1 y), scale s(x_2 + W_2 y), the two time steps;

    z' = (1 - a) z + a tanh(x_z + W_z y);  y' = (1 - b) y + b tanh(x_y + W_y z')
    """
    y, z = state
    width = y.shape[-1]
    three = x[..., : 3 * width] + y @ weight[:, : 3 * width]
    a, b = (scale * torch.sigmoid(three[..., : 2 * width])).chunk(2, dim=-1)
    z = torch.lerp(z, torch.tanh(three[..., 2 * width :]), a)
    candidate = torch.tanh(x[..., 3 * width :] + z @ weight[:, 3 * width :])
    return torch.lerp(y, candidate, b), z


def lem_prepare(
    x: Tensor, before: Tensors, after: Tensors, weight: Tensor, scale: float
) -> Tensors:
    (y, z), width = before, before[0].shape[-1]
    three = x[..., : 3 * width] + y @ weight[:, : 3 * width]
    a, b = torch.sigmoid(three[..., : 2 * width]).chunk(2, dim=-1)
    for_z = torch.tanh(three[..., 2 * width :])
    for_y = torch.tanh(x[..., 3 * width :] + after[1] @ weight[:, 3 * width :])
    return (
        1 - scale * a,
        1 - scale * b,
        scale * (for_z - z) * a * (1 - a),
        scale * (for_y - y) * b * (1 - b),
        scale * a * (1 - for_z * for_z),
        scale * b * (1 - for_y * for_y),
    )


def lem_back(factors: Tensors, grads: Tensors, weight: Tensor) -> tuple[Tensor, Tensors]:
    keep_z, keep_y, of_a, of_b, of_z, of_y = factors
    grad_y, grad_z = grads
    width = grad_y.shape[-1]
    for_y = grad_y * of_y
    grad_z = torch.addmm(grad_z, for_y, weight[:, 3 * width :].t())
    three = torch.cat([grad_z * of_a, grad_y * of_b, grad_z * of_z], dim=-1)
    before_y = torch.addmm(grad_y * keep_y, three, weight[:, : 3 * width].t())
    return torch.cat([three, for_y], dim=-1), (before_y, grad_z * keep_z)


def lem_weight(for_x: Tensor, before: Tensors, after: Tensors, factors: Tensors) -> Tensor:
    width = before[0].shape[-1]
    three, for_y = for_x[..., : 3 * width], for_x[..., 3 * width :]
    return torch.cat([before[0].t() @ three, after[1].t() @ for_y], dim=-1)


def _activated(
    forward: Callable[..., Tensors],
    backward: Callable[[Tensors, Tensors, Tensor], tuple[Tensor, Tensors]],
    weight_grad: Callable[[Tensor, Tensors, Tensors, Tensors], Tensor],
    relu: bool,
) -> Cell:
    return Cell(
        1,
        1,
        forward is indrnn,
        partial(forward, relu=relu),
        partial(activation_slope, relu=relu),
        backward,
        weight_grad,
    )


CELLS = {
    "elman": _activated(elman, elman_back, elman_weight, False),
    "elman_relu": _activated(elman, elman_back, elman_weight, True),
    "indrnn": _activated(indrnn, indrnn_back, indrnn_weight, True),
    "indrnn_tanh": _activated(indrnn, indrnn_back, indrnn_weight, False),
    "mgu": Cell(2, 1, False, mgu, mgu_prepare, mgu_back, mgu_weight),
    "lem": Cell(4, 2, False, lem, lem_prepare, lem_back, lem_weight),
}
