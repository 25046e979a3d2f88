"""Titans: every use of the inner memory obeys the laws; the state of zeros is the initial one."""

from __future__ import annotations

import pytest
import torch

from rlmem import cores, tree
from rlmem.errors import UsageError
from tests.cores.common import Data, T, data, fold, run, runs_close, scan, some_starts

USES = ("memory", "layer", "gate")


def make(use: str, **options):
    return cores.make(
        "titans", input_size=6, output_size=8, use=use, heads=2, memory=5, chunk=3, **options
    ).double()


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("use", USES)
def test_scan_is_the_fold_of_step(use, depth):
    core = make(use, depth=depth)
    given = data(core, 23)
    runs_close(run(scan, core, given), run(fold, core, given), torch.float64)


@pytest.mark.parametrize("use", USES)
def test_an_episode_is_the_same_wherever_it_begins(use):
    core = make(use)
    x = torch.randn(1, 20, 6, dtype=torch.float64)
    never = torch.zeros(1, 20, dtype=torch.bool)
    alone, _ = core.scan(x, core.initial_state(1), never)
    for before in (1, 2, 4):
        packed = torch.cat([torch.randn(1, before, 6, dtype=torch.float64), x], 1)
        start = torch.zeros(1, before + 20, dtype=torch.bool)
        start[0, before] = True
        y, _ = core.scan(packed, core.initial_state(1), start)
        torch.testing.assert_close(y[:, before:], alone)


@pytest.mark.parametrize("use", USES)
def test_zeros_are_the_initial_state_whatever_was_learned(use):
    core = make(use)
    with torch.no_grad():
        for weight in core.inner.first:
            weight.add_(1.0)
    given = data(core)
    zeros = tree.map(torch.zeros_like, given.state)
    start = torch.zeros_like(some_starts("cpu", T))
    first = start.clone()
    first[:, 0] = True
    from_zeros = run(scan, core, Data(given.x, zeros, start))
    reset = run(scan, core, Data(given.x, given.state, first))
    torch.testing.assert_close(from_zeros.y, reset.y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use": "head"}, "unknown use 'head'"),
        ({"depth": 3}, "depth must be 1"),
        ({"limit": 0.0}, "limit must be positive"),
        ({"chunk": 0}, "chunk"),
        ({"heads": 0}, "heads"),
        ({"expand": 0}, "expand"),
    ],
)
def test_impossible_options_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        cores.make("titans", input_size=8, **options)
