"""The Elman network against its equation and `torch.nn.RNN`."""

from __future__ import annotations

import pytest
import torch

from rlmem import cores
from rlmem.errors import UsageError
from tests.cores.oracle import equals_the_loop


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_equals_a_loop_over_its_equation(activation):
    def loop(p, x):
        h, outputs = torch.zeros(6, dtype=x.dtype), []
        for x_t in x:
            h = getattr(torch, activation)(p["weight_ih"] @ x_t + p["weight_hh"] @ h + p["bias"])
            outputs.append(h)
        return torch.stack(outputs)

    equals_the_loop("elman", loop, activation=activation)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_equals_the_layer_of_torch(activation):
    core = cores.make("elman", input_size=5, output_size=6, activation=activation)
    layer = torch.nn.RNN(5, 6, nonlinearity=activation, batch_first=True)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(core.weight_ih)
        layer.weight_hh_l0.copy_(core.weight_hh)
        layer.bias_ih_l0.copy_(core.bias)
        layer.bias_hh_l0.zero_()
    x = torch.randn(3, 12, 5)
    y, last = core.scan(x, core.initial_state(3), torch.zeros(3, 12, dtype=torch.bool))
    want, want_last = layer(x)
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(last, want_last[0])


def test_an_unknown_activation_is_named():
    with pytest.raises(UsageError, match="unknown activation 'rely'; did you mean relu"):
        cores.make("elman", input_size=4, activation="rely")
