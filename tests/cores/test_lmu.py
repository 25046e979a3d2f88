"""The Legendre memory against its equations, and the functions that its coefficients describe."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy
import torch
from torch.nn import functional as F

from rlmem import cores
from rlmem.errors import UsageError
from tests.cores.common import DTYPES, data, fold, run, runs_close, scan
from tests.cores.oracle import equals_the_loop


def outputs(p, x, memory):
    """u, m and y of one episode; `memory(t, m, u)` is the next m [N, C] in step t = 1, 2, ..."""
    m, ys = None, []
    for t, x_t in enumerate(x, start=1):
        u = p["W_u.weight"] @ x_t + p["W_u.bias"]
        m = memory(t, m, u)
        ys.append(F.gelu(p["W_m.weight"] @ m.flatten() + p["W_x.weight"] @ x_t + p["W_x.bias"]))
    return torch.stack(ys)


def sliding_window(order: int, theta: float):
    """A and B for one step, from equations 1 and 2 of the paper."""
    A, B = np.zeros((order, order)), np.zeros((order, 1))
    for i in range(order):
        B[i] = (2 * i + 1) * (-1) ** i
        for j in range(order):
            A[i, j] = (2 * i + 1) * (-1 if i < j else (-1) ** (i - j + 1))
    # Zero-order hold: the exponential of [[A, B], [0, 0]] / theta.
    block = np.zeros((order + 1, order + 1))
    block[:order, :order], block[:order, order:] = A / theta, B / theta
    both = torch.from_numpy(scipy.linalg.expm(block))
    return both[:order, :order], both[:order, order:]


@pytest.mark.parametrize(("order", "theta"), [(1, 3.0), (6, 10.5), (16, 64.0)])
@pytest.mark.parametrize("time", [23, 70])
def test_legt_equals_a_loop_over_its_equations(order, theta, time):
    A, B = sliding_window(order, theta)

    def memory(t, m, u):
        return B * u if m is None else A @ m + B * u

    options = {"hippo": "legt", "channels": 3, "order": order, "theta": theta}
    equals_the_loop("lmu", lambda p, x: outputs(p, x, memory), time, **options)


@pytest.mark.parametrize("order", [1, 6, 16])
def test_legs_equals_a_loop_over_its_equations(order):
    A, B = np.zeros((order, order)), np.zeros((order, 1))
    for n in range(order):
        B[n] = math.sqrt(2 * n + 1)
        for k in range(n + 1):
            A[n, k] = -(n + 1) if n == k else -math.sqrt((2 * n + 1) * (2 * k + 1))
    A, B, one = torch.from_numpy(A), torch.from_numpy(B), torch.eye(order, dtype=torch.float64)

    def memory(t, m, u):
        right = B * u / t
        if m is not None:
            right = right + (one + A / (2 * t)) @ m
        return torch.linalg.inv(one - A / (2 * t)) @ right

    options = {"hippo": "legs", "channels": 3, "order": order}
    equals_the_loop("lmu", lambda p, x: outputs(p, x, memory), **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize("time", [1, 13, 100])
def test_scan_of_legs_equals_a_loop_over_step(dtype, time):
    core = cores.make("lmu", input_size=6, output_size=8, hippo="legs").to(dtype)
    given = data(core, time)
    runs_close(run(scan, core, given), run(fold, core, given), dtype)


def signal(core, values):
    """The last coefficients [N] for these values of u."""
    with torch.no_grad():
        core.W_u.weight.fill_(1.0)
        core.W_u.bias.zero_()
    x = values[None, :, None]
    start = torch.zeros(1, len(values), dtype=torch.bool)
    return core.scan(x, core.initial_state(1), start)[1].m[0, :, 0]


def legendre(order: int, place: torch.Tensor) -> torch.Tensor:
    """P_n at `place` in [-1, 1], [N, len]."""
    return torch.from_numpy(
        np.stack([scipy.special.eval_legendre(n, place.numpy()) for n in range(order)])
    )


def test_legt_remembers_the_window():
    """A smooth signal of the last theta steps is the sum of m[n] P_n(2 s / theta - 1)."""
    core = cores.make("lmu", input_size=1, channels=1, order=12, theta=50.0).double()
    u = torch.sin(torch.arange(200, dtype=torch.float64) / 9)
    ago = torch.arange(5, 45)
    # P_n(2 s - 1) with s the share of the window that has passed since.
    got = signal(core, u) @ legendre(12, 2 * (ago + 0.5) / 50 - 1)
    assert (got - u[-1 - ago]).abs().max() < 0.05


def test_legs_remembers_the_whole_episode():
    core = cores.make("lmu", input_size=1, channels=1, order=12, hippo="legs").double()
    u = torch.sin(torch.arange(300, dtype=torch.float64) / 50)
    place = torch.arange(20, 280)
    scale = (2 * torch.arange(12, dtype=torch.float64) + 1).sqrt()
    got = (signal(core, u) * scale) @ legendre(12, 2 * (place + 1) / 300 - 1)
    assert (got - u[place]).abs().max() < 0.05


def test_matrices_keep_their_precision_when_the_dtype_changes():
    core = cores.make("lmu", input_size=2)
    exact = core.memory.A.double() - sliding_window(16, 32.0)[0]
    assert 0 < exact.abs().max() < 1e-6
    core.bfloat16()
    assert core.memory.A.dtype == torch.float32
    core.double()
    torch.testing.assert_close(core.memory.A, sliding_window(16, 32.0)[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hippo": "legz"}, "unknown hippo 'legz'; did you mean"),
        ({"theta": 0.0}, "theta must be positive, not 0.0"),
        ({"order": 0}, "order must be an integer of at least 1, not 0"),
        ({"channels": 0}, "channels must be an integer of at least 1, not 0"),
    ],
)
def test_invalid_options_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        cores.make("lmu", input_size=4, **options)
