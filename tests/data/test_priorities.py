"""Sum tree and priorities: values by hand, and sampling frequencies."""

from __future__ import annotations

import pytest
import torch

from rlmem.data.priorities import EPSILON, Priorities, SumTree


def test_sums_and_lookups_by_hand() -> None:
    tree = SumTree(5)
    tree.set(torch.tensor([0, 2, 3, 4]), torch.tensor([1.0, 2.0, 0.5, 4.0]))
    assert tree.total.item() == 7.5
    mass = torch.tensor([0.0, 0.99, 1.0, 2.99, 3.0, 3.49, 3.5, 7.49])
    assert tree.find(mass.double()).tolist() == [0, 0, 2, 2, 3, 3, 4, 4]
    tree.set(torch.tensor([4]), 0.0)
    assert tree.total.item() == 3.5
    assert tree.get(torch.tensor([3, 4])).tolist() == [0.5, 0.0]


@pytest.mark.parametrize("size", [1, 2, 3, 64, 1000])
def test_find_matches_the_cumulative_sum(size: int) -> None:
    torch.manual_seed(0)
    tree = SumTree(size)
    numbers = torch.rand(size, dtype=torch.float64) * (torch.rand(size) < 0.7)
    numbers[size // 2] = 1.0
    for _ in range(3):
        some = torch.randint(size, (20,))
        tree.set(some, torch.rand(20, dtype=torch.float64))
        tree.set(torch.arange(size), numbers)
    mass = torch.rand(500, dtype=torch.float64) * numbers.sum()
    want = torch.searchsorted(numbers.cumsum(0), mass, right=True)
    assert torch.equal(tree.find(mass), want)


def test_a_mass_beyond_the_total_finds_a_positive_number() -> None:
    tree = SumTree(8)
    tree.set(torch.tensor([1, 2]), torch.tensor([0.1, 0.2]))
    assert tree.find(torch.tensor([0.5], dtype=torch.float64)).tolist() == [2]


def test_new_segments_get_the_highest_priority_so_far() -> None:
    priorities = Priorities(8, alpha=0.5)
    priorities.add(torch.tensor([0, 1]))
    assert priorities.tree.get(torch.tensor([0, 1, 2])).tolist() == [1, 1, 0]
    priorities.update(torch.tensor([0]), torch.tensor([9.0]))
    priorities.add(torch.tensor([2]))
    root = (9 + EPSILON) ** 0.5
    assert priorities.tree.get(torch.tensor([0, 2])).tolist() == pytest.approx([root, root])
    priorities.remove(torch.tensor([0]))
    assert priorities.tree.total.item() == pytest.approx(1 + root)


def test_weights_by_hand() -> None:
    priorities = Priorities(4, alpha=1.0)
    priorities.add(torch.tensor([0, 1, 2]))
    priorities.update(torch.tensor([0, 1, 2]), torch.tensor([1.0, 3.0, 4.0]) - EPSILON)
    # P = 1/8, 3/8, 1/2; N P = 3/8, 9/8, 3/2; to the power -1: 8/3, 8/9, 2/3; over the largest.
    got = priorities.weights(torch.tensor([0, 1, 2]), present=3, beta=1.0)
    torch.testing.assert_close(got, torch.tensor([1.0, 1 / 3, 1 / 4]))
    got = priorities.weights(torch.tensor([0, 2]), present=3, beta=0.5)
    torch.testing.assert_close(got, torch.tensor([1.0, 0.5]))


def test_segments_are_drawn_in_proportion_to_their_priorities() -> None:
    torch.manual_seed(0)
    priorities = Priorities(3, alpha=2.0)
    priorities.add(torch.arange(3))
    priorities.update(torch.arange(3), torch.tensor([1.0, 2.0, 0.0]))
    drawn = torch.cat([priorities.draw(10) for _ in range(100)])
    frequency = torch.bincount(drawn, minlength=3) / 1000
    torch.testing.assert_close(frequency, torch.tensor([0.2, 0.8, 0.0]), atol=0.01, rtol=0)
    # One draw from each tenth of the total: exactly 2 of 10 draws are the first segment.
    assert (priorities.draw(10) == 0).sum() == 2


def test_restored_priorities_follow_their_segments() -> None:
    saved, other = Priorities(4, alpha=1.0), Priorities(8, alpha=1.0)
    saved.add(torch.arange(4))
    saved.update(torch.arange(4), torch.tensor([1.0, 2.0, 3.0, 4.0]) - EPSILON)
    saved.remove(torch.tensor([2]))
    present, here, there = (torch.tensor(x) for x in ([1, 5, 6, 7], [5, 6, 7], [1, 2, 3]))
    other.load_state_dict(saved.state_dict(), present, here, there)
    # The new segment (1) and the one that did not exist (2 there, 6 here) get the highest priority.
    want = [0, 4, 0, 0, 0, 2, 4, 4]
    assert other.tree.get(torch.arange(8)).tolist() == pytest.approx(want)
    assert other.tree.total.item() == pytest.approx(sum(want))
    assert other.highest == saved.highest


def test_restored_priorities_are_raised_to_the_new_alpha() -> None:
    saved, other = Priorities(2, alpha=0.5), Priorities(2, alpha=0.9)
    both = torch.arange(2)
    saved.add(both)
    saved.update(both, torch.tensor([3.0, 5.0]) - EPSILON)
    other.load_state_dict(saved.state_dict(), both, both, both)
    assert other.tree.get(both).tolist() == pytest.approx([3**0.9, 5**0.9])
