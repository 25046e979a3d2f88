"""S4D: the authors' layer and the three initialisations."""

from __future__ import annotations

import math

import pytest
import torch

from rlmem.cores.s4d import S4D
from rlmem.errors import UsageError
from tests.golden import Golden


def load(golden: Golden, core: S4D) -> None:
    keys = ("log_dt", "C", "log_A_real", "A_imag", "D")
    core.load_state_dict({key: golden[f"param.{key}"] for key in keys}, strict=False)


def test_layer_equals_the_published_one():
    golden = Golden("s4d")
    core = S4D(4, channel_states=6).double()
    load(golden, core)
    core.glu.linear.weight.data = golden["param.output_linear.weight"].squeeze(-1)
    core.glu.linear.bias.data = golden["param.output_linear.bias"]
    y, _ = core.scan(golden["in.u"], core.initial_state(3), golden["start"])
    golden.check("out.layer", y)


def test_impulse_response_equals_the_published_kernel():
    golden = Golden("s4d")
    core = S4D(4, channel_states=6, glu=False).double()
    load(golden, core)
    core.D.data.zero_()
    impulse = torch.zeros(1, 37, 4, dtype=torch.float64)
    impulse[:, 0] = 1.0
    none = torch.zeros(1, 37, dtype=torch.bool)
    y, _ = core.scan(impulse, core.initial_state(1), none)
    golden.check("out.kernel", y[0].t())


@pytest.mark.parametrize(
    ("init", "imaginary"),
    [
        ("lin", [0.0, math.pi, 2 * math.pi, 3 * math.pi]),
        ("inv", [8 / math.pi * (8 / (2 * n + 1) - 1) for n in range(4)]),
        ("legs", None),
    ],
)
def test_initial_poles_equal_the_papers(init, imaginary):
    if imaginary is None:
        imaginary = Golden("s5_init")["n8.Lambda"].imag[4:].tolist()
    core = S4D(3, channel_states=8, init=init)
    for channel in range(3):
        assert core.A_imag[channel].tolist() == pytest.approx(imaginary, rel=1e-5)
    torch.testing.assert_close(torch.exp(core.log_A_real), torch.full((3, 4), 0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "lags"}, "did you mean legs"),
        ({"channel_states": 7}, "channel_states must be even, not 7"),
        ({"dt_min": 0.0}, "dt_min"),
        ({"dt_min": 0.2, "dt_max": 0.1}, "dt_min"),
    ],
)
def test_invalid_options_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        S4D(4, **options)
