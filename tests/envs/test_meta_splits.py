"""Domains of tasks: what they hold, what is drawn of them, and when they overlap."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rlmem.envs import streams
from rlmem.envs.meta.splits import (
    Domain,
    Instances,
    Ranges,
    Splits,
    Values,
    hold_out,
    splits_of,
)
from rlmem.envs.streams import Draws
from rlmem.errors import UsageError
from tests.envs import fair


def draws(size: int = 10_000) -> Draws:
    return Draws(streams.keys(range(size)), torch.zeros(size, dtype=torch.int64))


def between(*intervals: tuple[float, float]) -> Ranges:
    return Ranges.of(intervals)


def test_values_are_drawn_equally_often_in_the_type_they_have() -> None:
    numbers = Values.of([3, 5, 9]).draw(draws())
    assert numbers.dtype == torch.int64
    fair.assert_frequencies(numbers, [0, 0, 0, 1, 0, 1, 0, 0, 0, 1])
    pairs = Values.of([[0.5, 1.0], [2.0, 3.0]])
    drawn = pairs.draw(draws())
    assert drawn.dtype == torch.float32
    assert drawn.unique(dim=0).tolist() == [[0.5, 1], [2, 3]]
    assert pairs.contains(drawn).all()
    assert pairs.contains(torch.tensor([[0.5, 3.0], [2.0, 3.0]])).tolist() == [False, True]


def test_ranges_are_drawn_evenly_over_all_intervals() -> None:
    ranges = Ranges.of([[4, 5], [0, 2], [2, 3]])
    numbers = ranges.draw(draws())
    assert ranges.contains(numbers).all()
    # The intervals end to end, as they are given.
    fair.assert_follows(torch.where(numbers >= 4, numbers - 4, numbers + 1) / 4, "uniform")
    assert ranges.contains(torch.tensor([0.0, 3.0, 3.5, 4.0, 5.0])).tolist() == [
        True,
        False,
        False,
        True,
        False,
    ]


def test_ranges_are_never_left_however_narrow() -> None:
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
        (lambda: hold_out(range(10), 0.01, 0), "share of 0.01 .* of 10 tasks leaves none"),
        (lambda: hold_out(range(10), 1.0, 0), "leaves none"),
    ],
)
def test_domains_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_what_is_held_out_depends_on_the_seed_alone_and_nothing_is_lost() -> None:
    cells = [(x, y) for x in range(9) for y in range(9)]
    train, heldout = hold_out(cells, 0.2, 3)
    assert len(heldout.values) == 16
    assert sorted(train.values + heldout.values) == cells
    assert hold_out(cells, 0.2, 3) == (train, heldout)
    others = [hold_out(cells, 0.2, seed)[1] for seed in range(200)]
    # Each cell is as likely as the others to be held out.
    chosen = torch.tensor([9 * x + y for other in others for x, y in other.values])
    fair.assert_uniform(chosen, 81)


def test_what_a_split_changes_must_be_apart_from_training() -> None:
    train = {"goal": Values((1, 2)), "wind": between((0, 1))}
    splits = Splits(train, {"goal": Values((3,))}, heldout_wind={"wind": between((1, 2))})
    assert splits.names() == ["train", "heldout", "heldout-wind"]
    assert splits["heldout"] == {"goal": Values((3,)), "wind": train["wind"]}
    assert splits["heldout-wind"] == {"goal": train["goal"], "wind": between((1, 2))}
    with pytest.raises(UsageError, match="'heldout' overlaps with training's in goal"):
        Splits(train, {"goal": Values((2, 3))})
    with pytest.raises(UsageError, match="overlaps with training's in wind"):
        Splits(train, {"goal": Values((3,)), "wind": between((0.5, 2))})


def test_only_instances_can_be_held_out_without_a_change() -> None:
    with pytest.raises(UsageError, match="'heldout' holds the same tasks as training"):
        Splits({"goal": Values((1, 2))})
    arms = Splits({"arms": Values((10,)), "value": Instances("beta")})
    assert arms["heldout"] == arms["train"]
    with pytest.raises(UsageError, match="unknown split 'test'"):
        arms["test"]


def test_a_fingerprint_is_the_same_everywhere_and_only_for_the_same_definition() -> None:
    def make(arms: int = 10, name: str = "beta", high: float = 0.5) -> Splits:
        train = {"arms": Values((arms,)), "value": Instances(name, (1, 2.5))}
        return Splits(train, heldout_far={"arms": between((0.0, high))})

    assert make().fingerprint() == "76b227bf2a78f531"
    others = [make(9), make(name="normal"), make(high=0.25)]
    prints = {each.fingerprint() for each in [make(), *others]}
    assert len(prints) == 4


def test_what_draws_no_tasks_has_no_splits() -> None:
    assert splits_of(object()) is None
