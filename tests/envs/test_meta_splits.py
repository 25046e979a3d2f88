"""Domains of tasks and splits: sampling, overlap, validation, fingerprints."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rlmem import envs
from rlmem.envs import counter_rng
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.meta.splits import (
    Domain,
    Instances,
    Ranges,
    Splits,
    Values,
    hold_out,
    splits_of,
)
from rlmem.errors import UsageError
from tests.envs import distribution_asserts


def draws(size: int = 10_000) -> RandomDraws:
    return RandomDraws(counter_rng.keys(range(size)), torch.zeros(size, dtype=torch.int64))


def between(*intervals: tuple[float, float]) -> Ranges:
    return Ranges.of(intervals)


def test_values_are_drawn_uniformly_and_keep_their_type() -> None:
    numbers = Values.of([3, 5, 9]).draw(draws())
    assert numbers.dtype == torch.int64
    distribution_asserts.assert_frequencies(numbers, [0, 0, 0, 1, 0, 1, 0, 0, 0, 1])
    pairs = Values.of([[0.5, 1.0], [2.0, 3.0]])
    drawn = pairs.draw(draws())
    assert drawn.dtype == torch.float32
    assert drawn.unique(dim=0).tolist() == [[0.5, 1], [2, 3]]
    assert pairs.contains(drawn).all()
    assert pairs.contains(torch.tensor([[0.5, 3.0], [2.0, 3.0]])).tolist() == [False, True]


def test_ranges_are_drawn_uniformly_over_all_intervals() -> None:
    ranges = Ranges.of([[4, 5], [0, 2], [2, 3]])
    numbers = ranges.draw(draws())
    assert ranges.contains(numbers).all()
    # The intervals concatenated.
    distribution_asserts.assert_follows(
        torch.where(numbers >= 4, numbers - 4, numbers + 1) / 4, "uniform"
    )
    assert ranges.contains(torch.tensor([0.0, 3.0, 3.5, 4.0, 5.0])).tolist() == [
        True,
        False,
        False,
        True,
        False,
    ]


def test_draws_stay_in_narrow_ranges() -> None:
    ranges = between((0.1, 0.1 + 1e-7), (1.0, 1.0 + 1e-6))
    assert ranges.contains(ranges.draw(draws())).all()


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        (Values((1, 2)), Values((2, 3)), True),
        (Values((1, 2)), Values((3,)), False),
        (Values(((1, 2), (3, 4))), Values(((2, 1),)), False),
        (Values(((1, 2), (3, 4))), Values(((3, 4),)), True),
        (between((0, 1), (2, 3)), between((1, 2), (3, 4)), False),
        (between((0, 1), (2, 3)), between((1, 2.1)), True),
        (between((0, 9)), between((1, 2)), True),
        (between((0, 1)), Values((1,)), False),
        (between((0, 1)), Values((0,)), True),
        (Instances("a"), Instances("a"), False),
        (Instances("a"), Values((0,)), False),
    ],
)
def test_domains_overlap_if_they_share_a_value(one: Domain, other: Domain, overlap: bool) -> None:
    assert one.overlaps(other) == other.overlaps(one) == overlap


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Values.of([]), "empty"),
        (lambda: Values.of([1, 2, 1]), "not all different: 1, 2, 1"),
        (lambda: Ranges.of([]), "low < high"),
        (lambda: Ranges.of([[1, 1]]), "low < high"),
        (lambda: Ranges.of([[1, 1 + 1e-9]]), "low < high"),
        (lambda: Ranges.of([[0, 2], [1, 3]]), "overlap"),
        (lambda: Ranges.of([1, 2]), r"pairs \[low, high\]"),
        (lambda: Ranges.of([[1, 2, 3]]), r"pairs \[low, high\]"),
        (lambda: hold_out(range(10), 0.01, 0), "a fraction 0.01 of 10 tasks leaves one side empty"),
        (lambda: hold_out(range(10), 1.0, 0), "leaves one side empty"),
    ],
)
def test_invalid_domains_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_hold_out_depends_on_the_seed_only_and_keeps_all_values() -> None:
    cells = [(x, y) for x in range(9) for y in range(9)]
    train, heldout = hold_out(cells, 0.2, 3)
    assert len(heldout.values) == 16
    assert sorted(train.values + heldout.values) == cells
    assert hold_out(cells, 0.2, 3) == (train, heldout)
    others = [hold_out(cells, 0.2, seed)[1] for seed in range(200)]
    # All cells are held out equally often.
    chosen = torch.tensor([9 * x + y for other in others for x, y in other.values])
    distribution_asserts.assert_uniform(chosen, 81)


def test_changed_domains_must_not_overlap_with_training() -> None:
    train = {"goal": Values((1, 2)), "wind": between((0, 1))}
    splits = Splits(train, {"goal": Values((3,))}, heldout_wind={"wind": between((1, 2))})
    assert splits.names() == ["train", "heldout", "heldout-wind"]
    assert splits["heldout"] == {"goal": Values((3,)), "wind": train["wind"]}
    assert splits["heldout-wind"] == {"goal": train["goal"], "wind": between((1, 2))}
    with pytest.raises(UsageError, match="'heldout' overlaps with training's in goal"):
        Splits(train, {"goal": Values((2, 3))})
    with pytest.raises(UsageError, match="overlaps with training's in wind"):
        Splits(train, {"goal": Values((3,)), "wind": between((0.5, 2))})


def test_only_instances_can_be_held_out_without_changes() -> None:
    with pytest.raises(UsageError, match="'heldout' holds the same tasks as training"):
        Splits({"goal": Values((1, 2))})
    arms = Splits({"arms": Values((10,)), "value": Instances("beta")})
    assert arms["heldout"] == arms["train"]
    with pytest.raises(UsageError, match="unknown split 'test'"):
        arms["test"]


def test_fingerprints_are_reproducible_and_depend_on_the_definition() -> None:
    def make(arms: int = 10, name: str = "beta", high: float = 0.5) -> Splits:
        train = {"arms": Values((arms,)), "value": Instances(name, (1, 2.5))}
        return Splits(train, heldout_far={"arms": between((0.0, high))})

    assert make().fingerprint() == "76b227bf2a78f531"
    others = [make(9), make(name="normal"), make(high=0.25)]
    prints = {each.fingerprint() for each in [make(), *others]}
    assert len(prints) == 4


def test_environments_without_tasks_have_no_splits() -> None:
    assert splits_of(envs.make("copy", num_envs=1)) is None
