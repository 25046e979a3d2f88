"""RetNet: the layer against the paper's parallel equations, with and without rotation."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from rlmem.cores.retnet import RetNet
from rlmem.errors import UsageError
from tests.cores.common import close, some_starts


def episode(core: RetNet, xs: torch.Tensor) -> torch.Tensor:
    """(Q K^T * D) V with complex queries and keys, positions counted from the episode's start."""
    time, size, pairs = len(xs), core.size, core.size // 2
    q, k, v, gate = F.linear(xs, core.project.weight).chunk(4, dim=-1)
    t = torch.arange(time, dtype=torch.float64)
    theta = 10000.0 ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    angle = t[:, None] * theta if core.rotate else torch.zeros(time, pairs, dtype=torch.float64)
    turned = torch.polar(torch.ones_like(angle), -angle)
    heads = []
    for head in range(core.heads):
        at = slice(head * size, (head + 1) * size)
        queries, keys = (
            torch.complex(x[:, at][:, :pairs], x[:, at][:, pairs:]) * turned
            for x in (q, k / size**0.5)
        )
        scores = (queries @ keys.mH).real
        gamma = 1 - 2.0 ** (-5 - head)
        decay = torch.where(t[:, None] >= t, gamma ** (t[:, None] - t), 0)
        h = (scores * decay) @ v[:, at]
        heads.append(F.layer_norm(h, (size,)))
    return F.linear(F.silu(gate) * torch.cat(heads, 1) * core.norm.weight, core.W_out.weight)


@pytest.mark.parametrize("rotate", [True, False])
def test_layer_equals_its_equations_on_every_episode(rotate):
    core = RetNet(5, 6, heads=3, head_size=4, rotate=rotate).double()
    x, start = torch.randn(3, 13, 5, dtype=torch.float64), some_starts("cpu")
    y, _ = core.scan(x, core.initial_state(3), start)
    for row in range(3):
        at = sorted({0, *start[row].nonzero().flatten().tolist(), 13})
        for begin, end in pairwise(at):
            torch.testing.assert_close(y[row, begin:end], episode(core, x[row, begin:end]))


def test_rotations_of_late_steps_are_as_exact_as_of_early_ones():
    """One long row in float32 equals the same steps split into two rows."""
    core = RetNet(4, 4)
    x, start = torch.randn(1, 30_000, 4), torch.zeros(1, 30_000, dtype=torch.bool)
    with torch.no_grad():
        y, end = core.scan(x, core.initial_state(1), start)
        _, state = core.scan(x[:, :29_000], core.initial_state(1), start[:, :29_000])
        got, got_end = core.scan(x[:, 29_000:], state, start[:, 29_000:])
    close(got, y[:, 29_000:], 1e-4, "outputs")
    close(got_end, end, 1e-4, "state")


def test_without_rotation_a_head_without_decay_ignores_the_order_of_inputs():
    """With rotation, swapping two earlier inputs changes the output."""
    x = torch.randn(1, 3, 4, dtype=torch.float64)
    swapped = x[:, [1, 0, 2]]
    for rotate, differs in ((False, False), (True, True)):
        core = RetNet(4, 8, heads=1, rotate=rotate).double()
        core._log_decay = lambda: torch.zeros(1, dtype=torch.float64)
        start = torch.zeros(1, 3, dtype=torch.bool)
        one, other = (core.scan(each, core.initial_state(1), start)[0] for each in (x, swapped))
        assert torch.allclose(one[:, 2], other[:, 2]) != differs


@pytest.mark.parametrize("options", [{"heads": 0}, {"head_size": 0}, {"head_size": 5}])
def test_invalid_options_are_named(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        RetNet(4, **options)
