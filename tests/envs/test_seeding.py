"""Training and evaluation seeds are disjoint."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlmem.envs.seeding import eval_seeds, train_seeds
from rlmem.errors import UsageError

RUNS = st.integers(0, 2**70)


@given(RUNS, RUNS)
def test_training_and_evaluation_seeds_of_any_runs_are_disjoint(one: int, other: int) -> None:
    assert not set(train_seeds(one, 200)) & set(eval_seeds(other, 200))


@given(RUNS, st.integers(0, 300), st.integers(0, 300))
def test_fewer_seeds_are_the_first_of_more(seed: int, n: int, k: int) -> None:
    for seeds in (train_seeds, eval_seeds):
        assert seeds(seed, n)[:k] == seeds(seed, min(n, k))


def test_seeds_are_distinct_and_fit_31_bits() -> None:
    for seeds in (train_seeds(3, 100_000), eval_seeds(3, 100_000)):
        assert len(set(seeds)) == len(seeds) == 100_000
        assert all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds[:1000])
        assert max(seeds) > 2**30


@pytest.mark.parametrize("seeds", [train_seeds, eval_seeds])
def test_neighbouring_runs_share_no_seeds(seeds: object) -> None:
    assert callable(seeds)
    drawn = [seed for run in range(50) for seed in seeds(run, 64)]
    assert len(set(drawn)) == len(drawn)


def test_known_seeds() -> None:
    assert train_seeds(0, 3) == [1878776328, 1009188246, 728221610]
    assert eval_seeds(0, 3) == [336614359, 568328125, 840639221]


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="not -1 and 3"):
        train_seeds(-1, 3)
    with pytest.raises(UsageError, match="not 3 and -2"):
        eval_seeds(3, -2)
