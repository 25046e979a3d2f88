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
            a = {"positive": 1 - write, "signed": 1 - 2 * write}.get(gate)
            if a is None:
                a = (1 - write) * torch.exp(1j * rest[-1])
            h = a * h + write * c
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


@pytest.mark.parametrize("gate", ["signed", "complex"])
def test_a_unit_can_flip_with_each_input(gate):
    """With gate -1, h' = c - h alternates: the parity of the number of ones, at any length."""
    core = cores.make("mingru", input_size=1, output_size=1, conv_size=1, gate=gate)
    with torch.no_grad():
        weight, bias = torch.zeros(core.maps, 1), torch.zeros(core.maps)
        bias[0] = 1.0  # c
        weight[1], bias[1] = 60.0, -30.0  # z, almost 1 for a one and 0 for a zero
        if gate == "complex":
            weight[1], bias[1] = 0.0, -30.0
            weight[2], bias[2] = torch.pi, 0.0
        core.linear.weight.copy_(weight)
        core.linear.bias.copy_(bias)
    bits = torch.randint(2, (1, 500))
    state = core.initial_state(1)
    if gate == "complex":
        # A rotation needs a first value: one unit, which each one turns by half a circle.
        state = state._replace(h=torch.ones_like(state.h))
    y, _ = core.scan(bits[..., None].float(), state, torch.zeros(1, 500, dtype=torch.bool))
    parity = bits.cumsum(1) % 2
    want = parity if gate == "signed" else 1 - 2 * parity
    torch.testing.assert_close(y[..., 0], want.float(), rtol=0, atol=1e-3)


def test_invalid_ranges_are_named():
    with pytest.raises(UsageError, match="unknown gate 'sined'; did you mean signed"):
        cores.make("mingru", input_size=4, gate="sined")
    with pytest.raises(UsageError, match="unknown gate 'complex'"):
        cores.make("s6", input_size=4, gate="complex")
    with pytest.raises(UsageError, match="positive=true needs gate=positive, not signed"):
        cores.make("minlstm", input_size=4, gate="signed", positive=True)
