"""The temporal convolutional network against its equations, and its receptive field."""

from __future__ import annotations

import pytest
import torch

from rlmem import cores
from rlmem.errors import UsageError
from tests.cores.oracle import equals_the_loop


@pytest.mark.parametrize(("layers", "size"), [(1, 2), (2, 3), (3, 4)])
def test_equals_a_loop_over_its_equations(layers, size):
    def convolve(p, name, x, dilation):
        weight, bias = p[f"{name}.linear.weight"], p[f"{name}.linear.bias"]
        kernels = weight.chunk(size, dim=1)
        outputs = []
        for t in range(len(x)):
            y = bias
            for j, kernel in enumerate(kernels[::-1]):
                if t - j * dilation >= 0:
                    y = y + kernel @ x[t - j * dilation]
            outputs.append(y)
        return torch.stack(outputs)

    def loop(p, x):
        for i in range(layers):
            y = torch.relu(convolve(p, f"blocks.{i}.first", x, 2**i))
            y = torch.relu(convolve(p, f"blocks.{i}.second", y, 2**i))
            if i == 0:
                x = x @ p["blocks.0.skip.weight"].T + p["blocks.0.skip.bias"]
            x = torch.relu(x + y)
        return x

    equals_the_loop("tcn", loop, layers=layers, kernel_size=size)


def test_an_output_depends_on_the_receptive_field_only():
    core = cores.make("tcn", input_size=4, output_size=32, layers=2, kernel_size=3).double()
    x = torch.randn(1, 30, 4, dtype=torch.float64, requires_grad=True)
    y, _ = core.scan(x, core.initial_state(1), torch.zeros(1, 30, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(y[0, -1].square().sum(), x)
    reached = gradient[0].abs().sum(-1).nonzero().min()
    assert 30 - reached == 1 + 2 * 2 * (2**2 - 1)


def test_a_kernel_of_one_step_is_an_error():
    with pytest.raises(UsageError, match="kernel_size must be an integer of at least 2, not 1"):
        cores.make("tcn", input_size=4, kernel_size=1)
