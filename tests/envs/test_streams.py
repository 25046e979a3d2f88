"""Random numbers of environments: fair in every bit, whatever the seed."""

from __future__ import annotations

import torch

from rlmem.envs import streams

SEEDS = 1 << 14


def test_every_bit_is_fair_and_no_number_comes_twice() -> None:
    words = streams.Draws(streams.keys(range(SEEDS)), torch.zeros(SEEDS).long()).bits(16)
    assert len(words.unique()) == words.numel()
    # The deviation of a mean of 2^18 bits is 2^-10; 64 bits are looked at.
    for bit in range(64):
        assert abs(((words >> bit) & 1).double().mean() - 0.5) < 4.5 * 2**-10, bit
    # Every bit also changes as often as not when the seed goes on by one.
    flips = words[:, 1:] ^ words[:, :-1]
    for bit in range(64):
        assert abs(((flips >> bit) & 1).double().mean() - 0.5) < 4.5 * 2**-10, bit


def test_seed_0_is_a_seed_like_others() -> None:
    key = streams.keys([0])
    assert int(key) != 0
    assert 0 not in streams.Draws(key, torch.zeros(1).long()).bits(100)
