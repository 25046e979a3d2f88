"""Counter-based random numbers: distributions and independence."""

from __future__ import annotations

import itertools

import pytest
import torch

from rlmem.envs import counter_rng
from tests.envs import distribution_asserts

SEEDS = 1 << 14


def test_every_bit_is_fair_and_no_number_is_repeated() -> None:
    words = counter_rng.RandomDraws(counter_rng.keys(range(SEEDS)), torch.zeros(SEEDS).long()).bits(
        16
    )
    assert len(words.unique()) == words.numel()
    # The deviation of a mean of 2^18 bits is 2^-10, for 64 bits.
    for bit in range(64):
        assert abs(((words >> bit) & 1).double().mean() - 0.5) < 4.5 * 2**-10, bit
    # Every bit changes with probability 1/2 if the seed increases by one.
    flips = words[:, 1:] ^ words[:, :-1]
    for bit in range(64):
        assert abs(((flips >> bit) & 1).double().mean() - 0.5) < 4.5 * 2**-10, bit


def test_seed_0_is_not_special() -> None:
    key = counter_rng.keys([0])
    assert int(key) != 0
    assert 0 not in counter_rng.RandomDraws(key, torch.zeros(1).long()).bits(100)


def draws(count: int = 10_000, episode: int = 0, first: int = 0) -> counter_rng.RandomDraws:
    key = counter_rng.keys(range(first, first + count))
    return counter_rng.RandomDraws(key, torch.full_like(key, episode))


def test_numbers_follow_their_distributions() -> None:
    for row in draws().uniform(4):
        distribution_asserts.assert_follows(row, "uniform")
    for row in draws(episode=3).uniform64(4):
        distribution_asserts.assert_follows(row, "uniform")
    for row in counter_rng.normals(draws(episode=5).bits(4)).flatten(0, 1):
        distribution_asserts.assert_follows(row, "norm")
    for limit in (2, 3, 10, 52, 1000):
        distribution_asserts.assert_uniform(draws(episode=7).below(limit, 3), limit)


def test_one_stream_follows_its_distribution() -> None:
    key = counter_rng.keys([11])
    numbers = counter_rng.RandomDraws(key, torch.zeros_like(key)).uniform(10_000)[:, 0]
    distribution_asserts.assert_follows(numbers, "uniform")
    distribution_asserts.assert_independent(numbers[1:], numbers[:-1])
    distribution_asserts.assert_independent(numbers[::2], numbers[1::2])


def test_uniform_numbers_are_below_one_and_reach_both_ends() -> None:
    for make in (counter_rng.uniform, counter_rng.uniform64):
        ends = make(torch.tensor([-(1 << 63), (1 << 63) - 1]))
        assert ends[0] == 0
        assert 1 - 2.0**-23 < ends[1] < 1
    assert torch.isfinite(counter_rng.normals(torch.tensor([-(1 << 63), (1 << 63) - 1]))).all()


def test_neighbouring_numbers_are_independent() -> None:
    here = draws().uniform(2)
    for other in (
        draws(first=1).uniform(2),
        draws(episode=1).uniform(2),
        draws(first=1, episode=1).uniform(2),
        draws(first=1 << 32).uniform(2),
        here[[1, 0]],
        counter_rng.uniform(counter_rng.RandomSteps(draws()._key).bits()).expand(2, -1),
    ):
        distribution_asserts.assert_independent(here[0], other[0])


def test_steps_are_uniform_and_independent() -> None:
    key = counter_rng.keys(range(10_000))
    steps, halves = counter_rng.RandomSteps(key, per_step=2), counter_rng.RandomSteps(key)
    rows = [row for _ in range(3) for row in counter_rng.uniform(steps.bits())]
    rows += [halves.half().double() * 2.0**-32 + 0.5 for _ in range(6)]
    for row in rows:
        distribution_asserts.assert_follows(row, "uniform")
    for a, b in itertools.combinations(rows[:6], 2):
        distribution_asserts.assert_independent(a, b)
    for a, b in itertools.combinations(rows[6:], 2):
        distribution_asserts.assert_independent(a, b)


def test_a_stream_does_not_depend_on_block_sizes() -> None:
    key = counter_rng.keys(range(40_000, 40_000 + 3000))
    many, one = counter_rng.RandomSteps(key), counter_rng.RandomSteps(key[2999:])
    for _ in range(100):
        assert torch.equal(many.bits()[:, 2999:], one.bits())
    many, one = counter_rng.RandomSteps(key), counter_rng.RandomSteps(key[2999:])
    for _ in range(100):
        assert torch.equal(many.half()[2999:], one.half())
    episode = torch.arange(3000)
    for decks, size in ((1, 52), (2, 52), (1, 416)):
        whole = counter_rng.RandomDraws(key, episode).shuffles(decks, size)
        alone = counter_rng.RandomDraws(key[2999:], episode[2999:]).shuffles(decks, size)
        assert torch.equal(whole[..., 2999:], alone)
        few = counter_rng.RandomDraws(key, episode).shuffles(decks, size, 7)
        assert torch.equal(few, whole[:7])
        kinds = counter_rng.RandomDraws(key, episode).kinds(decks, 4, size // 4)
        alone = counter_rng.RandomDraws(key[2999:], episode[2999:]).kinds(decks, 4, size // 4)
        assert torch.equal(kinds[..., 2999:], alone)


@pytest.mark.parametrize("size", [1, 2, 5, 52, 64, 156, 256, 257, 832])
def test_a_shuffle_deals_every_card_once(size: int) -> None:
    deck = draws(50).shuffle(size)
    assert torch.equal(deck.long().sort(0).values, torch.arange(size)[:, None].expand(-1, 50))
    assert deck.dtype == (torch.uint8 if size <= 256 else torch.int16)


def test_all_orders_are_equally_likely() -> None:
    deck = draws(60_000).shuffle(5).long()
    distribution_asserts.assert_uniform(
        (deck * 5 ** torch.arange(5)[:, None]).sum(0).unique(return_inverse=True)[1], 120
    )


@pytest.mark.parametrize(("kinds", "each", "orders"), [(2, 3, 20), (3, 2, 90), (5, 1, 120)])
def test_all_orders_of_kinds_are_equally_likely(kinds: int, each: int, orders: int) -> None:
    dealt = draws(60_000).kinds(2, kinds, each).long()
    numbers = (dealt * kinds ** torch.arange(kinds * each)[:, None, None]).sum(0)
    found = numbers.unique(return_inverse=True)[1]
    distribution_asserts.assert_uniform(found[0], orders)
    distribution_asserts.assert_uniform(found[1], orders)
    if orders == 20:
        distribution_asserts.assert_uniform(found[0] * 20 + found[1], 400)


@pytest.mark.parametrize(("kinds", "each"), [(2, 26), (4, 13), (4, 208), (13, 16)])
def test_every_kind_is_dealt_once_per_card(kinds: int, each: int) -> None:
    dealt = draws(50).kinds(3, kinds, each)
    assert dealt.shape == (kinds * each, 3, 50)
    for kind in range(kinds):
        assert ((dealt == kind).sum(0) == each).all()


@pytest.mark.parametrize(("size", "decks"), [(52, 1), (104, 2), (416, 1)])
def test_a_shuffle_is_uniform_at_every_position_and_for_neighbours(size: int, decks: int) -> None:
    dealt = draws(20_000, episode=size).shuffles(decks, size).long()
    for place in (0, 1, 2, 3, 4, 5, 17, size // 2, size - 2, size - 1):
        distribution_asserts.assert_uniform(dealt[place], size)
    suits = dealt % 4
    pairs = distribution_asserts.without_replacement([size // 4] * 4)
    for place in (0, 1, 2, 3, 4, 30, size - 2):
        distribution_asserts.assert_frequencies(suits[place] * 4 + suits[place + 1], pairs)
    # All pairs of cards are neighbours equally often.
    steps = (dealt[1:] - dealt[:-1]) % size
    distribution_asserts.assert_frequencies(steps, [0.0] + [1 / (size - 1)] * (size - 1))
    if decks == 2:
        distribution_asserts.assert_uniform((suits * torch.tensor([4, 1])[:, None]).sum(1), 16)


def test_shuffles_differ_between_seeds_and_episodes() -> None:
    here = draws(20_000).shuffle(52).long() % 4
    for other in (draws(20_000, first=1), draws(20_000, episode=1)):
        there = other.shuffle(52).long() % 4
        for place in (0, 1, 51):
            distribution_asserts.assert_uniform(here[place] * 4 + there[place], 16)
