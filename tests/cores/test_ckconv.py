"""Continuous kernel convolution against its equations, and its receptive field."""

from __future__ import annotations

import pytest
import torch

from rlmem import cores
from rlmem.errors import UsageError
from tests.cores.oracle import equals_the_loop

OMEGA = 7.0


def kernel(p, name, delay, size):
    """The kernel's numbers for one delay; times run from -1 to 1."""
    s = torch.tensor([2 * delay / (size - 1) - 1], dtype=torch.float64)
    for layer in ("first", "second"):
        s = torch.sin(OMEGA * (p[f"{name}.{layer}.weight"] @ s + p[f"{name}.{layer}.bias"]))
    return p[f"{name}.last.weight"] @ s + p[f"{name}.last.bias"]


def normed(x, p, name):
    x = x - x.mean()
    return x / (x.square().mean() + 1e-5).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]


@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize(("layers", "size"), [(2, 4), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_equals_a_loop_over_its_equations(layers, size, separable):
    def convolve(p, name, x):
        outputs, inputs = [], x.shape[1]
        for t in range(len(x)):
            y = p[f"{name}.bias"]
            for j in range(min(size, t + 1)):
                k = kernel(p, f"{name}.kernel", j, size)
                if separable:
                    y = y + k / size**0.5 * x[t - j]
                else:
                    y = y + k.view(-1, inputs) @ x[t - j] / (size * inputs) ** 0.5
            outputs.append(p[f"{name}.mix.weight"] @ y if separable else y)
        return torch.stack(outputs)

    def loop(p, x):
        for i in range(layers):
            y = x
            for j in range(2):
                y = convolve(p, f"blocks.{i}.convs.{j}", y)
                y = torch.stack(
                    [torch.relu(normed(each, p, f"blocks.{i}.norms.{j}")) for each in y]
                )
            if i == 0:
                x = x @ p["blocks.0.skip.weight"].T + p["blocks.0.skip.bias"]
            x = torch.relu(x + y)
        return x

    sizes = {"layers": layers, "kernel_size": size, "hidden": 6, "omega": OMEGA}
    equals_the_loop("ckconv", loop, separable=separable, **sizes)


@pytest.mark.parametrize("separable", [True, False])
def test_an_output_depends_on_the_receptive_field_only(separable):
    options = {"layers": 1, "kernel_size": 5, "separable": separable}
    core = cores.make("ckconv", input_size=4, output_size=32, **options).double()
    x = torch.randn(1, 30, 4, dtype=torch.float64, requires_grad=True)
    y, _ = core.scan(x, core.initial_state(1), torch.zeros(1, 30, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(y[0, -1].square().sum(), x)
    assert 30 - gradient[0].abs().sum(-1).nonzero().min() == 1 + 2 * (5 - 1)


def test_the_number_of_parameters_does_not_depend_on_the_kernel_size():
    small, large = (cores.make("ckconv", input_size=8, kernel_size=size) for size in (4, 100))
    counts = [sum(p.numel() for p in core.parameters()) for core in (small, large)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 1}, "kernel_size must be an integer of at least 2, not 1"),
        ({"hidden": 0}, "hidden must be"),
        ({"layers": 0}, "layers must be"),
        ({"omega": 0.0}, "omega must be positive, not 0.0"),
    ],
)
def test_invalid_options_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        cores.make("ckconv", input_size=4, **options)
