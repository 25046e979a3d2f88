"""Long expressive memory against its equations."""

from __future__ import annotations

import pytest
import torch

from rlmem import cores
from rlmem.errors import UsageError
from tests.cores.oracle import equals_the_loop


@pytest.mark.parametrize("dt", [1.0, 0.3])
def test_equals_a_loop_over_its_equations(dt):
    def loop(p, x):
        y = z = torch.zeros(6, dtype=x.dtype)
        outputs = []
        V, W, b = (p[key].split(6) for key in ("weight_ih", "weight_hh", "bias"))
        for x_t in x:
            # The paper's second activation is (1 + tanh(x / 2)) / 2.
            first = dt * 0.5 * (1 + torch.tanh((W[0] @ y + V[0] @ x_t + b[0]) / 2))
            second = dt * 0.5 * (1 + torch.tanh((W[1] @ y + V[1] @ x_t + b[1]) / 2))
            z = (1 - first) * z + first * torch.tanh(W[2] @ y + V[2] @ x_t + b[2])
            y = (1 - second) * y + second * torch.tanh(W[3] @ z + V[3] @ x_t + b[3])
            outputs.append(y)
        return torch.stack(outputs)

    equals_the_loop("lem", loop, dt=dt)


@pytest.mark.parametrize("dt", [0.0, 1.5])
def test_invalid_time_steps_are_named(dt):
    with pytest.raises(UsageError, match=f"dt must be above 0 and at most 1, not {dt}"):
        cores.make("lem", input_size=4, dt=dt)
