"""S5: the published layer, both discretisations, conjugate symmetry, blocks, stable poles."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from rlmem.cores import hippo
from rlmem.cores.s5 import S5, SLOWEST
from rlmem.errors import UsageError
from tests.cores.test_golden import CoreModule, s5, scan
from tests.golden import Golden, under


def test_layer_with_a_second_norm_equals_the_published_one():
    # The published layer has a second norm after the state space, with the first norm's parameters.
    golden = Golden("s5_layer")
    leaves = golden.leaves("in", "param", "state0")
    params = under("param", leaves)
    bare, core = (S5(6, ssm_size=8, blocks=1, block=block).double() for block in (False, True))

    def norm(x):
        return F.layer_norm(x, (6,), params["norm.scale"], params["norm.bias"], eps=1e-6)

    mine = {f"core.{key}": each for key, each in s5(under("ssm", params)).items()}
    given = (norm(leaves["in.x"]), leaves["state0.x"], golden["start"])
    y, final = functional_call(CoreModule(bare), mine, (scan, *given))
    two = {
        "glu.linear.weight": torch.cat([params["out1.kernel"].t(), params["out2.kernel"].t()]),
        "glu.linear.bias": torch.cat([params["out1.bias"], params["out2.bias"]]),
    }
    out = functional_call(core.block, two, (leaves["in.x"], norm(y)))
    golden.check("out.y", out)
    golden.check("state.x", final)
    golden.check_gradients(out, leaves)


def test_block_is_norm_state_space_gelu_glu_and_skip():
    core = S5(6, ssm_size=8, blocks=1, prenorm=True).double()
    core.norm.weight.data.uniform_(0.5, 2)
    bare = S5(6, ssm_size=8, blocks=1, block=False).double()
    bare.load_state_dict({k: v for k, v in core.state_dict().items() if k in bare.state_dict()})
    x, start = torch.randn(2, 9, 6, dtype=torch.float64), torch.zeros(2, 9, dtype=torch.bool)
    y, final = core.scan(x, core.initial_state(2), start)
    inner, inner_final = bare.scan(core.norm(x), bare.initial_state(2), start)
    a, b = core.block.glu.linear(F.gelu(inner, approximate="tanh")).chunk(2, dim=-1)
    torch.testing.assert_close(y, x + a * torch.sigmoid(b))
    torch.testing.assert_close(final, inner_final)


@pytest.mark.parametrize("name", ["s5", "s5_full"])
def test_zero_order_hold_equals_the_published_one(name):
    golden = Golden(name)
    conj_sym = bool(golden["const.conj_sym"])
    core = S5(5, ssm_size=8 if conj_sym else 4, blocks=1, conj_sym=conj_sym, block=False).double()
    core.load_state_dict(s5(under("param", golden.leaves("param"))))
    gate, B = core.discretize()
    golden.check("out.Lambda_bar", gate)
    golden.check("out.B_bar", B)


def test_bilinear_is_the_trapezoidal_rule():
    # (1 - Lambda dt/2) h' = (1 + Lambda dt/2) h + dt B u, solved for h' as a dense linear system.
    core = S5(5, ssm_size=8, blocks=1, discretization="bilinear").double()
    gate, B = core.discretize()
    half = torch.diag(core.poles() * torch.exp(core.log_step) / 2)
    one = torch.eye(len(half), dtype=half.dtype)
    torch.testing.assert_close(torch.linalg.solve(one - half, one + half), torch.diag(gate))
    source = torch.exp(core.log_step)[:, None] * torch.view_as_complex(core.B)
    torch.testing.assert_close(torch.linalg.solve(one - half, source), B)


def test_small_time_steps_lose_no_precision():
    core = S5(5, ssm_size=64, dt_min=1e-6, dt_max=1e-5)
    _, B = core.discretize()
    _, exact = core.double().discretize()
    assert ((B - exact).abs() / exact.abs()).max() < 1e-5


def test_conjugate_symmetry_equals_the_full_state_space():
    half = S5(5, ssm_size=8, blocks=1, block=False).double()
    whole = S5(5, ssm_size=8, blocks=1, conj_sym=False, block=False).double()
    state = half.state_dict()
    conjugate = torch.tensor([1.0, -1.0], dtype=torch.float64)
    whole.load_state_dict(
        {
            "Lambda_re": state["Lambda_re"].repeat(2),
            "Lambda_im": torch.cat([state["Lambda_im"], -state["Lambda_im"]]),
            "log_step": state["log_step"].repeat(2),
            "B": torch.cat([state["B"], state["B"] * conjugate]),
            "C": torch.cat([state["C"], state["C"] * conjugate], dim=1),
            "D.weight": state["D.weight"],
        }
    )
    x, start = torch.randn(2, 9, 5, dtype=torch.float64), torch.zeros(2, 9, dtype=torch.bool)
    y, _ = half.scan(x, half.initial_state(2), start)
    want, _ = whole.scan(x, whole.initial_state(2), start)
    torch.testing.assert_close(y, want)


def test_initial_poles_are_blocks_of_hippo():
    core = S5(5, ssm_size=16, blocks=2)
    half, _ = hippo.legs_diagonal(8)
    torch.testing.assert_close(core.poles(), half[:4].repeat(2).to(torch.complex64))


def test_initial_input_matrix_is_real_in_the_basis_of_hippo():
    # Without conjugate symmetry B is V^H times a random real matrix, so V B is this matrix.
    core = S5(5, ssm_size=8, blocks=1, conj_sym=False)
    _, V = hippo.legs_diagonal(8)
    drawn = V.to(torch.complex64) @ torch.view_as_complex(core.B)
    assert drawn.imag.abs().max() < 1e-5
    assert drawn.real.std().item() == pytest.approx(5**-0.5, rel=0.5)


def test_poles_stay_in_the_left_half_plane():
    core = S5(5, ssm_size=8, blocks=1)
    core.Lambda_re.data = torch.tensor([3.0, 0.0, -1e-9, -0.5])
    torch.testing.assert_close(core.poles().real, torch.tensor([-3.0, -SLOWEST, -SLOWEST, -0.5]))
    assert core.discretize()[0].abs().max() < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ssm_size": 10, "blocks": 4}, "multiple of 2 x blocks, not 10"),
        ({"ssm_size": 0}, "ssm_size must be an integer of at least 1"),
        ({"discretization": "zho"}, "did you mean zoh"),
        ({"dt_max": 0.0}, "dt_min"),
    ],
)
def test_invalid_options_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        S5(4, **options)
