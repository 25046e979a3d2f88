"""A question: rows of inputs with right answers, on which a core is trained and tested."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Rows of a question.

    `inputs` are tokens [B, T], several tokens per step [B, T, n], or features [B, T, F] (floats).
    `start` [B, T] marks episode starts; `answer` [B, T] is the right answer of each step, or -1.
    """

    inputs: Tensor
    start: Tensor
    answer: Tensor


# Draws about `rows` rows; the same generator state gives the same rows.
Draw = Callable[[int, torch.Generator], Batch]
# As `Draw`, with a size (pairs, delays, writes, ...) before the rows.
SizedDraw = Callable[[int, int, torch.Generator], Batch]


@dataclass(frozen=True)
class Question:
    """One question to a memory.

    `inputs` counts the tokens (or features, if `continuous`), `answers` the answers. `train` draws
    batches of `rows` rows for `steps` steps of training. `tests` are the conditions of the test, by
    name; the score is their mean. `chance` is the accuracy of the best constant answer, and
    `optimum` that of a perfect memory.
    """

    name: str
    about: str
    inputs: int
    answers: int
    train: Draw
    tests: Mapping[str, Draw]
    chance: float
    optimum: float = 1.0
    steps: int = 600
    rows: int = 32
    test_rows: int = 200
    continuous: bool = False

    @property
    def family(self) -> str:
        """The first part of the name."""
        return self.name.partition("-")[0]

    def score(self, accuracy: float) -> float:
        """An accuracy between chance (0) and the optimum (1)."""
        return min(max((accuracy - self.chance) / (self.optimum - self.chance), 0.0), 1.0)


def episodes(inputs: Tensor, answer: Tensor) -> Batch:
    """A batch in which each row is one episode."""
    start = torch.zeros(answer.shape, dtype=torch.bool)
    start[:, 0] = True
    return Batch(inputs, start, answer)


def below(high: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random integers from 0 to `high` - 1."""
    return torch.randint(high, shape, generator=generator)


def permutations(rows: int, size: int, generator: torch.Generator) -> Tensor:
    """Random orders of 0 ... `size` - 1, one per row."""
    return torch.rand(rows, size, generator=generator).argsort(1)


def log_uniform(low: int, high: int, generator: torch.Generator) -> int:
    """A random integer whose logarithm is uniform, from `low` to `high`."""
    share = torch.rand((), generator=generator).item()
    return min(high, int(low * ((high + 1) / low) ** share))
