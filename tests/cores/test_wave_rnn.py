"""The wave RNN against its equation, and the initial wave."""

from __future__ import annotations

import pytest
import torch

from rlmem import cores
from rlmem.errors import UsageError
from tests.cores.oracle import equals_the_loop


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_equals_a_loop_over_its_equation(channels):
    def loop(p, x):
        ring = 6 // channels
        h, outputs = torch.zeros(channels, ring, dtype=x.dtype), []
        for x_t in x:
            waves = torch.stack(
                [
                    sum(
                        p["u"][c, other, k] * h[other, (i + k - 1) % ring]
                        for other in range(channels)
                        for k in range(3)
                    )
                    for c in range(channels)
                    for i in range(ring)
                ]
            )
            h = torch.relu(waves + p["weight_ih"] @ x_t + p["bias"]).reshape(channels, ring)
            outputs.append(h.flatten())
        return torch.stack(outputs)

    equals_the_loop("wave_rnn", loop, time=13, channels=channels)


def test_an_input_travels_unchanged_around_its_ring():
    core = cores.make("wave_rnn", input_size=1, output_size=10, channels=2)
    with torch.no_grad():
        core.weight_ih.zero_()
        core.weight_ih[0] = core.weight_ih[5] = 1.0
        core.bias.zero_()
    x = torch.tensor([[3.0, 0, 0, 0, 0, 0]])[..., None]
    y, _ = core.scan(x, core.initial_state(1), torch.zeros(1, 6, dtype=torch.bool))
    for t in range(6):
        want = torch.zeros(2, 5)
        want[:, t % 5] = 3.0
        torch.testing.assert_close(y[0, t].reshape(2, 5), want)


def test_channels_must_divide_the_width():
    with pytest.raises(UsageError, match="channels must divide the width 8, not 3"):
        cores.make("wave_rnn", input_size=4, output_size=8, channels=3)
