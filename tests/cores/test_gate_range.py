"""Signed and complex gates of minGRU, minLSTM and S6: equations, laws, and tracking of parity."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rlmem import cores
from rlmem.errors import UsageError
from tests.cores.common import B, T, data, fold, run, runs_close, scan
from tests.cores.oracle import equals_the_loop

OPTIONS = [
    (name, gate)
    for name in ("mingru", "minlstm", "s6")
    for gate in ("positive", "signed", "complex")
    if (name, gate) != ("s6", "complex")
]
every_gate = pytest.mark.parametrize(("name", "gate"), OPTIONS)


def convolved(p, x):
    """Four taps within the episode."""
    padded = torch.cat([torch.zeros(3, x.shape[1], dtype=x.dtype), x])
    weight, bias = p["conv.weight"], p["conv.bias"]
    return torch.stack(
        [bias + sum(weight[:, j] * padded[t + j] for j in range(4)) for t in range(len(x))]
    )


@pytest.mark.parametrize("gate", ["positive", "signed", "complex"])
@pytest.mark.parametrize("name", ["mingru", "minlstm"])
def test_minimal_networks_equal_a_loop_over_their_equations(name, gate):
    def loop(p, x):
        h, outputs = torch.zeros(6, dtype=torch.complex128), []
        for u in convolved(p, x):
            c, *rest = (p["linear.weight"] @ u + p["linear.bias"]).split(6)
            if name == "mingru":
                write = torch.sigmoid(rest[0])
            else:
                f, i = torch.sigmoid(rest[0]), torch.sigmoid(rest[1])
                write = i / (f + i)
            if gate == "complex":
                angle, imaginary = rest[-2:]
                a = (1 - write) * torch.exp(1j * angle)
                h = a * h + (1 - a) * (c + 1j * imaginary)
            else:
                h = {"positive": 1 - write, "signed": 1 - 2 * write}[gate] * h + write * c
            outputs.append(h.real)
        return torch.stack(outputs)

    equals_the_loop(name, loop, gate=gate)


@pytest.mark.parametrize("gate", ["positive", "signed"])
def test_s6_equals_a_loop_over_its_equations(gate):
    def loop(p, x):
        inner, size, rank = 6, 8, 1
        u, z = (x @ p["W_in.weight"].T).split(inner, dim=1)
        A = -torch.exp(p["A_log"])
        h, outputs = torch.zeros(size, inner, dtype=x.dtype), []
        for u_t, z_t in zip(convolved(p, u), z, strict=True):
            u_t = F.silu(u_t)
            d, b, c = (p["W_x.weight"] @ u_t).split([rank, size, size])
            dt = F.softplus(p["W_dt.weight"] @ d + p["W_dt.bias"])
            a = torch.exp(dt * A)
            h = (a if gate == "positive" else 2 * a - 1) * h + torch.outer(b, dt * u_t)
            outputs.append(p["W_out.weight"] @ ((c @ h + p["D"] * u_t) * F.silu(z_t)))
        return torch.stack(outputs)

    equals_the_loop("s6", loop, gate=gate)


@every_gate
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_scan_equals_a_loop_over_step(name, gate, dtype):
    core = cores.make(name, input_size=6, output_size=8, gate=gate).to(dtype)
    given = data(core)
    runs_close(run(scan, core, given), run(fold, core, given), dtype)


@every_gate
def test_a_row_can_be_split_and_starts_are_exact(name, gate):
    core = cores.make(name, input_size=6, output_size=8, gate=gate).double()
    given = data(core)
    x, state, start = given
    first, between = core.scan(x[:, :5], state, start[:, :5])
    second, last = core.scan(x[:, 5:], between, start[:, 5:])
    y, whole = core.scan(*given)
    torch.testing.assert_close(torch.cat([first, second], dim=1), y)
    torch.testing.assert_close(tuple(last), tuple(whole))
    start[:, 7] = True
    x[:, :7] = float("nan")
    after, _ = core.scan(x, state, start)
    alone, _ = core.scan(x[:, 7:], core.initial_state(B), start[:, 7:])
    assert torch.equal(after[:, 7:].isfinite(), torch.ones(B, T - 7, 8, dtype=torch.bool))
    torch.testing.assert_close(after[:, 7:], alone)


@pytest.mark.parametrize("name", ["mingru", "minlstm"])
def test_weights_of_signed_and_positive_gates_are_interchangeable(name):
    positive, signed = (cores.make(name, input_size=4, gate=g) for g in ("positive", "signed"))
    signed.load_state_dict(positive.state_dict())


def test_a_signed_unit_can_flip_with_each_input():
    """With gate -1, h' = c - h alternates: the parity of the number of ones, at any length."""
    core = cores.make("mingru", input_size=1, output_size=1, conv_size=1, gate="signed")
    with torch.no_grad():
        # c = 1; z is almost 1 for a one and 0 for a zero.
        core.linear.weight.copy_(torch.tensor([[0.0], [60.0]]))
        core.linear.bias.copy_(torch.tensor([1.0, -30.0]))
    bits = torch.randint(2, (1, 500))
    start = torch.zeros(1, 500, dtype=torch.bool)
    y, _ = core.scan(bits[..., None].float(), core.initial_state(1), start)
    parity = bits.cumsum(1) % 2
    torch.testing.assert_close(y[..., 0], parity.float(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("modulus", [2, 3, 5])
def test_a_complex_unit_can_count_modulo_a_number(modulus):
    """Each one turns h around c by a part of the circle; h = 0 comes back after `modulus` ones."""
    core = cores.make("mingru", input_size=1, output_size=1, conv_size=1, gate="complex").double()
    with torch.no_grad():
        # c = 1 + 0.5 i, so that the real parts of all states differ; z is almost 0.
        core.linear.weight.copy_(torch.tensor([[0.0], [0.0], [2 * torch.pi / modulus], [0.0]]))
        core.linear.bias.copy_(torch.tensor([1.0, -40.0, 0.0, 0.5]))
    bits = torch.randint(2, (1, 500))
    start = torch.zeros(1, 500, dtype=torch.bool)
    y, _ = core.scan(bits[..., None].double(), core.initial_state(1), start)
    turn = torch.polar(torch.ones(modulus), torch.arange(modulus) * 2 * torch.pi / modulus)
    want = ((1 - turn) * (1 + 0.5j)).real.double()[bits.cumsum(1) % modulus]
    torch.testing.assert_close(y[..., 0], want, rtol=0, atol=1e-4)


def test_invalid_ranges_are_named():
    with pytest.raises(UsageError, match="unknown gate 'sined'; did you mean signed"):
        cores.make("mingru", input_size=4, gate="sined")
    with pytest.raises(UsageError, match="unknown gate 'complex'"):
        cores.make("s6", input_size=4, gate="complex")
    with pytest.raises(UsageError, match="positive=true needs gate=positive, not signed"):
        cores.make("minlstm", input_size=4, gate="signed", positive=True)
