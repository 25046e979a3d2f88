"""The cells of `gated_rnn`: one time step each, forward and backward, in torch.

A unit has four biases, and four activations that its backward reads: those of its gates or, for the
GRU, r, z, n and h_n, the state's contribution to the candidate n. `x` and `u` are the input's and
the state's contributions to the pre-activations, [.., G D] in the order of the gates, `bias`
[.., 4 D]; a state is a tuple of tensors [.., D], the output first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

PER_UNIT = 4

Tensors = tuple[Tensor, ...]


class Cell(NamedTuple):
    """`gates` pre-activations per unit, `states` tensors in the state, and the two passes.

    `forward(x, u, bias, state)` gives the next state and the activations. `backward(activations,
    before, after, grads)`, from the gradients of the state after, gives the gradients of the four
    sums with a bias and of the state before, the latter without the path through `u`.
    """

    gates: int
    states: int
    forward: Callable[[Tensor, Tensor, Tensor, Tensors], tuple[Tensors, Tensors]]
    backward: Callable[[Tensors, Tensors, Tensors, Tensors], tuple[Tensors, Tensors]]


def gru(x: Tensor, u: Tensor, bias: Tensor, state: Tensors) -> tuple[Tensors, Tensors]:
    """r, z = s(x + u + b); n = tanh(x + b + r (u + b')); h' = (1 - z) n + z h."""
    x_r, x_z, x_n = x.chunk(3, dim=-1)
    u_r, u_z, u_n = u.chunk(3, dim=-1)
    b_r, b_z, b_n, b_u = bias.chunk(4, dim=-1)
    r, z = torch.sigmoid(x_r + u_r + b_r), torch.sigmoid(x_z + u_z + b_z)
    h_n = u_n + b_u
    n = torch.tanh(x_n + b_n + r * h_n)
    return (torch.lerp(n, state[0], z),), (r, z, n, h_n)


def gru_back(
    activations: Tensors, before: Tensors, after: Tensors, grads: Tensors
) -> tuple[Tensors, Tensors]:
    r, z, n, h_n = activations
    (grad,) = grads
    for_n = grad * (1 - z) * (1 - n * n)
    for_z = grad * (before[0] - n) * z * (1 - z)
    for_r = for_n * h_n * r * (1 - r)
    return (for_r, for_z, for_n, for_n * r), (grad * z,)


def lstm(x: Tensor, u: Tensor, bias: Tensor, state: Tensors) -> tuple[Tensors, Tensors]:
    """i, f, o = s(x + u + b); g = tanh(x + u + b); c' = f c + i g; h' = o tanh(c')."""
    i, f, g, o = (x + u + bias).chunk(4, dim=-1)
    i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    c = f * state[1] + i * g
    return (o * torch.tanh(c), c), (i, f, g, o)


def lstm_back(
    activations: Tensors, before: Tensors, after: Tensors, grads: Tensors
) -> tuple[Tensors, Tensors]:
    i, f, g, o = activations
    tanh_c = torch.tanh(after[1])
    grad = grads[1] + grads[0] * o * (1 - tanh_c * tanh_c)
    for_i, for_f = grad * g * i * (1 - i), grad * before[1] * f * (1 - f)
    for_g, for_o = grad * i * (1 - g * g), grads[0] * tanh_c * o * (1 - o)
    return (for_i, for_f, for_g, for_o), (torch.zeros_like(grad), grad * f)


def slstm(
    x: Tensor, u: Tensor, bias: Tensor, state: Tensors, *, exponential: bool
) -> tuple[Tensors, Tensors]:
    """i, f, z, o = x + u + b;  l = f (exponential forget gate) or log s(f);

    m' = max(i, l + m), or i where n = 0;  i' = exp(i - m');  f' = exp(l + m - m'), 0 where n = 0;
    c' = f' c + i' tanh(z);  n' = f' n + i';  h' = s(o) c' / n'
    """
    _, c, n, m = state
    i, f, z, o = (x + u + bias).chunk(4, dim=-1)
    fresh = n == 0
    log_forget = m + (f if exponential else F.logsigmoid(f))
    m = torch.where(fresh | (i >= log_forget), i, log_forget)
    # Selected before the exponential: unbounded for a fresh state, its gradient could be NaN.
    forget = torch.exp(torch.where(fresh, -torch.inf, log_forget) - m)
    write, z, o = torch.exp(i - m), torch.tanh(z), torch.sigmoid(o)
    c, n = forget * c + write * z, forget * n + write
    return (o * c / n, c, n, m), (write, f, z, o)


def slstm_back(
    activations: Tensors, before: Tensors, after: Tensors, grads: Tensors, *, exponential: bool
) -> tuple[Tensors, Tensors]:
    write, f, z, o = activations
    _, c, n, m = before
    h, c_after, n_after, m_after = after
    for_h, for_c, for_n, for_m = grads
    fresh = n == 0
    log_forget = m + (f if exponential else F.logsigmoid(f))
    kept = ~fresh & (write < 1)
    forget = torch.where(fresh, 0, torch.exp(torch.where(fresh, 0, log_forget - m_after)))
    ratio = c_after / n_after
    for_c = for_c + for_h * o / n_after
    for_n = for_n - for_h * h / n_after
    for_write = (for_c * z + for_n) * write
    for_forget = (for_c * c + for_n * n) * forget
    # m' is either i or l + m; it is subtracted in both exponents.
    for_m = for_m - for_write - for_forget
    for_i = for_write + torch.where(kept, 0, for_m)
    for_forget = for_forget + torch.where(kept, for_m, 0)
    for_f = for_forget if exponential else for_forget * torch.sigmoid(-f)
    for_z, for_o = for_c * write * (1 - z * z), for_h * ratio * o * (1 - o)
    before_grads = torch.zeros_like(for_h), for_c * forget, for_n * forget, for_forget
    return (for_i, for_f, for_z, for_o), before_grads


CELLS = {
    "gru": Cell(3, 1, gru, gru_back),
    "lstm": Cell(4, 2, lstm, lstm_back),
} | {
    name: Cell(
        4,
        4,
        partial(slstm, exponential=exponential),
        partial(slstm_back, exponential=exponential),
    )
    for name, exponential in (("slstm", False), ("slstm_exp", True))
}
