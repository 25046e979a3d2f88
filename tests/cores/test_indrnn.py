"""The IndRNN against its equation, and the bound of its recurrent weights."""

from __future__ import annotations

import pytest
import torch

from rlmem import cores
from tests.cores.oracle import equals_the_loop


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("layers", [1, 3])
def test_equals_a_loop_over_its_equation(activation, layers):
    bound = 2 ** (1 / 50)

    def loop(p, x):
        states, outputs = [torch.zeros(6, dtype=x.dtype)] * layers, []
        for y in x:
            for i in range(layers):
                W, b, u = (p[f"layers.{i}.{key}"] for key in ("linear.weight", "linear.bias", "u"))
                # The gradient of a weight outside the bound is that of a weight inside.
                u = u - torch.where(u.abs() > bound, u - bound * u.sign(), 0).detach()
                states[i] = y = getattr(torch, activation)(W @ y + u * states[i] + b)
            outputs.append(y)
        return torch.stack(outputs)

    equals_the_loop("indrnn", loop, activation=activation, layers=layers, horizon=50)


@pytest.mark.parametrize(("horizon", "growth"), [(None, 1.0), (8, 2.0)])
def test_a_unit_grows_at_most_twofold_over_the_horizon(horizon, growth):
    core = cores.make("indrnn", input_size=1, output_size=2, layers=1, horizon=horizon)
    (layer,) = core.layers
    with torch.no_grad():
        layer.u.copy_(torch.tensor([3.0, -3.0]))
        layer.linear.weight.zero_()
        layer.linear.bias.zero_()
    x, start = torch.zeros(1, 8, 1), torch.zeros(1, 8, dtype=torch.bool)
    y, _ = core.scan(x, (torch.ones(1, 2),), start)
    torch.testing.assert_close(y[0, -1], torch.tensor([growth, 0.0]))
    # A weight outside the bound still has a gradient, so that it can return.
    (gradient,) = torch.autograd.grad(y.sum(), layer.u)
    assert gradient[0] > 0
