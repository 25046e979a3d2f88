"""Schedules of exploration."""

from __future__ import annotations

from dataclasses import dataclass

from rlmem.errors import fraction


@dataclass(frozen=True)
class Exploration:
    """Linear annealing of epsilon from `start_e` to `end_e`, then constant.

    It reaches `end_e` after `exploration_fraction` of the training. Raises `UsageError` if one of
    them is not between 0 and 1.
    """

    start_e: float
    end_e: float
    exploration_fraction: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            fraction(name, value)

    def epsilon(self, progress: float) -> float:
        """The probability of a random action after this fraction (0 to 1) of the training."""
        duration = self.exploration_fraction
        done = min(progress / duration, 1.0) if duration else 1.0
        return self.start_e + done * (self.end_e - self.start_e)
