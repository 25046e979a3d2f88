"""What changes while an algorithm trains."""

from __future__ import annotations

from dataclasses import dataclass

from rlmem.errors import share


@dataclass(frozen=True)
class Exploration:
    """An epsilon that goes from `start_e` to `end_e`, linearly, and then stays.

    It gets there in the first `exploration_fraction` of the training. Raises `UsageError` where one
    of them is not between 0 and 1.
    """

    start_e: float
    end_e: float
    exploration_fraction: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            share(name, value)

    def epsilon(self, progress: float) -> float:
        """How likely an action is random after this share (0 to 1) of the training."""
        fraction = self.exploration_fraction
        done = min(progress / fraction, 1.0) if fraction else 1.0
        return self.start_e + done * (self.end_e - self.start_e)
