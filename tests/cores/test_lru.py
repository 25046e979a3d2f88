"""LRU: initial poles in a ring."""

from __future__ import annotations

import math

import pytest
import torch

from rlmem.cores.lru import LRU
from rlmem.errors import UsageError


def test_initial_poles_are_in_the_ring_and_normalised():
    core = LRU(4, state_size=4096, r_min=0.5, r_max=0.9, max_phase=math.pi)
    gate, _ = core.encode(torch.zeros(1, 4))
    radius, phase = gate.abs(), gate.angle()
    assert 0.5 <= radius.min() < 0.51
    assert 0.89 < radius.max() <= 0.9
    assert 0 < phase.min() < phase.max() <= math.pi
    # Uniform in area: the median of the squared radius is the middle of its range.
    assert radius.square().median().item() == pytest.approx((0.25 + 0.81) / 2, abs=0.02)
    # gamma^2 is the inverse of the variance sum_k |lambda|^2k of a mode under white noise.
    torch.testing.assert_close(torch.exp(2 * core.gamma_log), 1 - radius.square())


@pytest.mark.parametrize("ring", [(0.9, 0.5), (-0.1, 0.5), (0.0, 1.0), (0.5, 0.5)])
def test_invalid_rings_are_usage_errors(ring):
    with pytest.raises(UsageError, match="r_min"):
        LRU(4, r_min=ring[0], r_max=ring[1])
