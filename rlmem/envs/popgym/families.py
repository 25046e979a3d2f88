"""POPGym's 14 families of tasks by name, each in three difficulties."""

from __future__ import annotations

from collections.abc import Callable

import torch

from rlmem.envs.base import VecEnv, register
from rlmem.envs.popgym.package import make_package
from rlmem.errors import unknown

DIFFICULTIES = ("easy", "medium", "hard")

# Our names, and the names of the package's classes without the difficulty.
FAMILIES = {
    "popgym-autoencode": "Autoencode",
    "popgym-bandit": "MultiarmedBandit",
    "popgym-battleship": "Battleship",
    "popgym-concentration": "Concentration",
    "popgym-count-recall": "CountRecall",
    "popgym-higher-lower": "HigherLower",
    "popgym-minesweeper": "MineSweeper",
    "popgym-noisy-position-only-cartpole": "NoisyPositionOnlyCartPole",
    "popgym-noisy-position-only-pendulum": "NoisyPositionOnlyPendulum",
    "popgym-position-only-cartpole": "PositionOnlyCartPole",
    "popgym-position-only-pendulum": "PositionOnlyPendulum",
    "popgym-repeat": "RepeatPrevious",
    "popgym-repeat-first": "RepeatFirst",
    "popgym-velocity-only-cartpole": "VelocityOnlyCartPole",
}

# Where an action changes nothing that follows, observing it tells an agent nothing, but it serves
# one without memory as a note to itself: on RepeatPrevious -0.39 instead of -0.49.
GUESSING = ("Autoencode", "CountRecall", "HigherLower", "RepeatFirst", "RepeatPrevious")


def family(task: str) -> Callable[..., VecEnv]:
    """The factory of one family, with the options that all of them have."""

    def make(
        num_envs: int,
        difficulty: str = "easy",
        previous_action: bool = task not in GUESSING,
        vectorization: str = "sync",
        device: torch.device | str = "cpu",
    ) -> VecEnv:
        if difficulty not in DIFFICULTIES:
            raise unknown("difficulty", difficulty, DIFFICULTIES)
        return make_package(task, difficulty, num_envs, vectorization, previous_action, device)

    return make


for _name, _task in FAMILIES.items():
    register(_name)(family(_task))
