"""ParaGRU and ParaLSTM against their equations."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rlmem import cores
from tests.cores.oracle import equals_the_loop


def s(x: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + torch.exp(-x))


def paragru(x, B, b, a):
    h, outputs = torch.zeros(6, dtype=x.dtype), []
    for x_t in x:
        z = s(a[0] * h + B[0] @ x_t + b[0])
        r = s(a[1] * h + B[1] @ x_t + b[1])
        h = (1 - z) * h + z * torch.tanh(a[2] * (r * h) + B[2] @ x_t + b[2])
        outputs.append(h)
    return torch.stack(outputs)


def paralstm(x, B, b, a):
    h = c = torch.zeros(6, dtype=x.dtype)
    outputs = []
    for x_t in x:
        f = s(a[0] * h + a[3] * c + B[0] @ x_t + b[0])
        c = f * c + (1 - f) * torch.tanh(a[2] * h + B[2] @ x_t + b[2])
        h = s(a[1] * h + a[4] * c + B[1] @ x_t + b[1]) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs)


@pytest.mark.parametrize("cell", [paragru, paralstm])
@pytest.mark.parametrize("conv_size", [1, 3])
def test_equals_a_loop_over_its_equations(cell, conv_size) -> None:
    def loop(p, x):
        if conv_size > 1:
            past = torch.cat([x.new_zeros(2, 5), x])
            taps = (w * past[j : j + len(x)] for j, w in enumerate(p["conv.weight"].unbind(1)))
            x = p["conv.bias"] + sum(taps)
        return cell(x, *(p[key].split(6) for key in ("linear.weight", "linear.bias", "diagonal")))

    equals_the_loop(cell.__name__, loop, conv_size=conv_size)


def test_one_unit_can_count_modulo_three() -> None:
    """The weights are from a search: each letter permutes three values of `h`, and errors fade.

    A map of one number that turns three points in a circle cannot be monotone; r falls with h.
    """
    core = cores.make("paragru", input_size=3, output_size=1, conv_size=1)
    with torch.no_grad():
        # Columns: the letters 0 (z is 0), 1 and 2. Rows: z, r, c.
        core.linear.weight.copy_(
            torch.tensor([[-40, 0.312, -0.7928], [0, 0.598, 8.6136], [0, -0.0121, -3.4895]])
        )
        core.linear.bias.zero_()
        core.diagonal.copy_(torch.tensor([-1.4651, 14.0419, -14.0651]))
    value = torch.tensor([-0.3967, -0.0966, 0.2058])
    letters = torch.randint(3, (50, 500), generator=torch.Generator().manual_seed(0))
    state = (torch.zeros(50, 0, 3), torch.full((50, 1), value[0].item()))
    start = torch.zeros(50, 500, dtype=torch.bool)
    with torch.no_grad():
        h, _ = core.scan(F.one_hot(letters, 3).float(), state, start)
    found = (h - value).abs().argmin(-1)
    assert torch.equal(found, letters.cumsum(1) % 3)
