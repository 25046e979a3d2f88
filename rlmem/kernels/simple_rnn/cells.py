"""The cells of `simple_rnn`: one time step forward, and the three parts of its backward, in torch.

`x` is the input's contribution to the pre-activations, [.., P D], biases included. A state is a
tuple of tensors [.., D], the output first. `weight` is [D, P D], or [K D] for an elementwise cell:
the diagonals of K matrices.
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

    `diagonals` is the K of an elementwise cell, and 0 for one with a matrix.

    `forward(x, state, weight, scale)` is one step. The backward of a row has three parts:
    `prepare(x, before, after, weight, scale)` computes the factors of all steps at once from the
    states before and after each step; `backward(factors, grads, weight)` is one step back in time,
    from the gradients of the state after to those of `x` and of the state before;
    `weight_grad(grad_x, before, after, factors)` is the weight's gradient, from all steps [N, ..].
    """

    parts: int
    states: int
    diagonals: int
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


def paragru(x: Tensor, state: Tensors, weight: Tensor, scale: float) -> Tensors:
    """z, r = s(x_z + a_z h), s(x_r + a_r h); c = tanh(x_c + a_c (r h)); h' = (1 - z) h + z c."""
    z, _, c = paragru_gates(x, state[0], weight)
    return (torch.lerp(state[0], c, z),)


def paragru_gates(x: Tensor, h: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    (x_z, x_r, x_c), (a_z, a_r, a_c) = x.chunk(3, dim=-1), weight.chunk(3)
    r = torch.sigmoid(torch.addcmul(x_r, a_r, h))
    return torch.sigmoid(torch.addcmul(x_z, a_z, h)), r, torch.tanh(torch.addcmul(x_c, a_c, r * h))


def paragru_prepare(
    x: Tensor, before: Tensors, after: Tensors, weight: Tensor, scale: float
) -> Tensors:
    (h,), (a_z, a_r, a_c) = before, weight.chunk(3)
    z, r, c = paragru_gates(x, h, weight)
    of_z, of_c = (c - h) * z * (1 - z), z * (1 - c * c)
    of_gated = of_c * a_c
    of_r = of_gated * h * r * (1 - r)
    return of_z, of_r, of_c, 1 - z + of_gated * r + a_z * of_z + a_r * of_r, r


def paragru_back(factors: Tensors, grads: Tensors, weight: Tensor) -> tuple[Tensor, Tensors]:
    (grad,) = grads
    return torch.cat([grad * each for each in factors[:3]], dim=-1), (grad * factors[3],)


def paragru_weight(for_x: Tensor, before: Tensors, after: Tensors, factors: Tensors) -> Tensor:
    h, r = before[0], factors[4]
    return (for_x * torch.cat([h, h, r * h], dim=-1)).sum(0)


def paralstm(x: Tensor, state: Tensors, weight: Tensor, scale: float) -> Tensors:
    """f = s(x_f + a_f h + p_f c);  c' = f c + (1 - f) tanh(x_z + a_z h);

    o = s(x_o + a_o h + p_o c');  h' = o tanh(c')
    """
    c, _, _, o = paralstm_gates(x, state, weight)
    return o * torch.tanh(c), c


def paralstm_gates(
    x: Tensor, state: Tensors, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The next c, then f, z and o."""
    (x_f, x_o, x_z), (a_f, a_o, a_z, p_f, p_o) = x.chunk(3, dim=-1), weight.chunk(5)
    h, c = state
    f = torch.sigmoid(x_f + a_f * h + p_f * c)
    z = torch.tanh(x_z + a_z * h)
    c = torch.lerp(z, c, f)
    return c, f, z, torch.sigmoid(x_o + a_o * h + p_o * c)


def paralstm_prepare(
    x: Tensor, before: Tensors, after: Tensors, weight: Tensor, scale: float
) -> Tensors:
    c, f, z, o = paralstm_gates(x, before, weight)
    t = torch.tanh(c)
    of_o = t * o * (1 - o)
    through = o * (1 - t * t) + weight.chunk(5)[4] * of_o
    return f, of_o, through, (before[1] - z) * f * (1 - f), (1 - f) * (1 - z * z)


def paralstm_back(factors: Tensors, grads: Tensors, weight: Tensor) -> tuple[Tensor, Tensors]:
    (f, of_o, through, of_f, of_z), (grad_h, grad_c) = factors, grads
    a_f, a_o, a_z, p_f, _ = weight.chunk(5)
    grad_c = torch.addcmul(grad_c, grad_h, through)
    for_f, for_o, for_z = grad_c * of_f, grad_h * of_o, grad_c * of_z
    before_h = a_f * for_f + a_o * for_o + a_z * for_z
    return torch.cat([for_f, for_o, for_z], dim=-1), (before_h, f * grad_c + p_f * for_f)


def paralstm_weight(for_x: Tensor, before: Tensors, after: Tensors, factors: Tensors) -> Tensor:
    for_f, for_o, _ = for_x.chunk(3, dim=-1)
    recurrent = for_x * torch.cat([before[0]] * 3, dim=-1)
    return torch.cat([recurrent, for_f * before[1], for_o * after[1]], dim=-1).sum(0)


def _activated(
    forward: Callable[..., Tensors],
    backward: Callable[[Tensors, Tensors, Tensor], tuple[Tensor, Tensors]],
    weight_grad: Callable[[Tensor, Tensors, Tensors, Tensors], Tensor],
    relu: bool,
) -> Cell:
    return Cell(
        1,
        1,
        int(forward is indrnn),
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
    "mgu": Cell(2, 1, 0, mgu, mgu_prepare, mgu_back, mgu_weight),
    "lem": Cell(4, 2, 0, lem, lem_prepare, lem_back, lem_weight),
    "paragru": Cell(3, 1, 3, paragru, paragru_prepare, paragru_back, paragru_weight),
    "paralstm": Cell(3, 2, 5, paralstm, paralstm_prepare, paralstm_back, paralstm_weight),
}
