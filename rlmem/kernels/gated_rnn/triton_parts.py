"""Device functions of `triton_kernels.py`: the cells, and a matrix product.

The equations are those of `cells.py`. Memory [.., n D] is read and written as n tensors [BM, DP] of
BM rows and DP units, zero beyond the rows and units that exist.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def fetch(at, D, inside, i: tl.constexpr):
    """The i-th tensor from address `at`, in float32."""
    return tl.load(at + i * D, inside, 0.0).to(tl.float32)


@triton.jit
@no_type_check
def product(x, at, found, weight, row_stride, column_stride, unit, D, ON_CHIP: tl.constexpr):
    """Rows times a matrix. With ON_CHIP these are `x` and `weight`. Otherwise the rows are read
    from `at`, zero where not `found`, and the matrix from `weight` with the given strides. The rows
    are rounded to the matrix's dtype."""
    if ON_CHIP:
        sum = tl.dot(x.to(weight.dtype), weight, input_precision="tf32x3")
    else:
        STEP: tl.constexpr = 32
        sum = tl.zeros(x.shape, tl.float32)
        for first in range(0, D, STEP):
            k = first + tl.arange(0, STEP)
            left = tl.load(at[:, None] + k[None, :], found[:, None] & (k < D)[None, :], 0.0)
            w = weight + k[:, None] * row_stride + unit[None, :] * column_stride
            right = tl.load(w, (k < D)[:, None] & (unit < D)[None, :], 0.0)
            sum = tl.dot(left.to(right.dtype), right, sum, input_precision="tf32x3")
    return sum


@triton.jit
@no_type_check
def gate_products(
    at, found, weight, unit, D, G: tl.constexpr, BM: tl.constexpr, DP: tl.constexpr
):  # fmt: skip
    """The state's contributions [BM, DP] to the units `unit` of all gates, zero for a fourth of
    three. Its rows h [BM, D] are read from `at`, zero where not `found`."""
    STEP: tl.constexpr = 16
    u_0 = tl.zeros((BM, DP), tl.float32)
    u_1 = tl.zeros((BM, DP), tl.float32)
    u_2 = tl.zeros((BM, DP), tl.float32)
    u_3 = tl.zeros((BM, DP), tl.float32)
    for first in range(0, D, STEP):
        k = first + tl.arange(0, STEP)
        left = tl.load(at[:, None] + k[None, :], found[:, None] & (k < D)[None, :], 0.0)
        left = left.to(weight.dtype.element_ty)
        w = weight + k[:, None] * G * D + unit[None, :]
        there = (k < D)[:, None] & (unit < D)[None, :]
        u_0 = tl.dot(left, tl.load(w, there, 0.0), u_0, input_precision="tf32x3")
        u_1 = tl.dot(left, tl.load(w + D, there, 0.0), u_1, input_precision="tf32x3")
        u_2 = tl.dot(left, tl.load(w + 2 * D, there, 0.0), u_2, input_precision="tf32x3")
        if G > 3:
            u_3 = tl.dot(left, tl.load(w + 3 * D, there, 0.0), u_3, input_precision="tf32x3")
    return u_0, u_1, u_2, u_3


@triton.jit
@no_type_check
def adjoint_products(
    at, at_last, found, weight, unit, D, end, G: tl.constexpr, BM: tl.constexpr, DP: tl.constexpr
):  # fmt: skip
    """The gradients [BM, DP] for the units `unit` of h, from those [BM, G D] of the gates.

    They are read from `at`, and those of the last gate from `at_last`; zero where not `found`. Only
    the units before `end` of each gate are read.
    """
    STEP: tl.constexpr = 16
    sum = tl.zeros((BM, DP), tl.float32)
    for first in range(0, end, STEP):
        k = first + tl.arange(0, STEP)
        rows = found[:, None] & (k < D)[None, :]
        there = (k < D)[:, None] & (unit < D)[None, :]
        w = weight + unit[None, :] * G * D + k[:, None]
        for gate in tl.static_range(G):
            if gate == G - 1:
                left = tl.load(at_last[:, None] + k[None, :], rows, 0.0)
            else:
                left = tl.load(at[:, None] + gate * D + k[None, :], rows, 0.0)
            right = tl.load(w + gate * D, there, 0.0)
            sum = tl.dot(left.to(right.dtype), right, sum, input_precision="tf32x3")
    return sum


@triton.jit
@no_type_check
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
@no_type_check
def tanh(x):
    e = tl.exp(-2.0 * tl.abs(x))
    size = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0, -size, size)


@triton.jit
@no_type_check
def log_sigmoid(x):
    e = tl.exp(-tl.abs(x))
    u = 1.0 + e
    # log(1 + e) loses the last digits of e; the factor restores them.
    log = tl.where(u == 1.0, e, tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0)))
    return tl.minimum(x, 0.0) - log


@triton.jit
@no_type_check
def put(at, D, inside, a, b, c, d):
    tl.store(at, a, inside)
    tl.store(at + D, b, inside)
    tl.store(at + 2 * D, c, inside)
    tl.store(at + 3 * D, d, inside)


@triton.jit
@no_type_check
def gru(x_r, x_z, x_n, u_n, b_n, b_u, h):
    """The next h and the activations, from the complete pre-activations of r and z."""
    r, z = sigmoid(x_r), sigmoid(x_z)
    h_n = u_n + b_u
    n = tanh(x_n + b_n + r * h_n)
    return n + z * (h - n), r, z, n, h_n


@triton.jit
@no_type_check
def gru_back(r, z, n, h_n, h, grad):
    """Gradients of the four sums with a bias, and of h without the path through them."""
    for_n = grad * (1 - z) * (1 - n * n)
    for_z = grad * (h - n) * z * (1 - z)
    for_r = for_n * h_n * r * (1 - r)
    return for_r, for_z, for_n, for_n * r, grad * z


@triton.jit
@no_type_check
def lstm(i, f, g, o, c):
    """The next h and c, and the activations."""
    i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
    c = f * c + i * g
    return o * tanh(c), c, i, f, g, o


@triton.jit
@no_type_check
def lstm_back(i, f, g, o, c, c_after, grad_h, grad_c):
    """Gradients of the four sums with a bias, and of c without the path through them."""
    tanh_c = tanh(c_after)
    grad = grad_c + grad_h * o * (1 - tanh_c * tanh_c)
    for_i, for_f = grad * g * i * (1 - i), grad * c * f * (1 - f)
    return for_i, for_f, grad * i * (1 - g * g), grad_h * tanh_c * o * (1 - o), grad * f


@triton.jit
@no_type_check
def slstm(i, f, z, o, c, n, m, EXPONENTIAL: tl.constexpr):
    """The next h, c, n and m, and the activations."""
    z, o = tanh(z), sigmoid(o)
    log_forget = m + (f if EXPONENTIAL else log_sigmoid(f))
    log_forget = tl.where(n == 0, -float("inf"), log_forget)
    m = tl.where(i >= log_forget, i, log_forget)
    # One of the two exponents is 0; the other is at most 0.
    least = tl.exp(tl.where(i >= log_forget, log_forget, i) - m)
    forget, write = tl.where(i >= log_forget, least, 1.0), tl.where(i >= log_forget, 1.0, least)
    c, n = forget * c + write * z, forget * n + write
    return o * c / n, c, n, m, write, f, z, o


@triton.jit
@no_type_check
def slstm_back(
    write, f, z, o, c, n, m, c_after, n_after, m_after, grad_h, grad_c, grad_n, grad_m,
    EXPONENTIAL: tl.constexpr,
):  # fmt: skip
    """Gradients of the four sums with a bias, and of c, n and m without the path through them."""
    log_forget = m + (f if EXPONENTIAL else log_sigmoid(f))
    forget = tl.exp(tl.where(n == 0, -float("inf"), log_forget - m_after))
    ratio = c_after / n_after
    grad_c += grad_h * o / n_after
    grad_n -= grad_h * o * ratio / n_after
    for_write = (grad_c * z + grad_n) * write
    for_forget = (grad_c * c + grad_n * n) * forget
    for_m = grad_m - for_write - for_forget
    for_i = for_write + tl.where(write < 1, 0.0, for_m)
    for_forget += tl.where(write < 1, for_m, 0.0)
    for_f = for_forget if EXPONENTIAL else for_forget * sigmoid(-f)
    for_z, for_o = grad_c * write * (1 - z * z), grad_h * ratio * o * (1 - o)
    return for_i, for_f, for_z, for_o, grad_c * forget, grad_n * forget, for_forget
