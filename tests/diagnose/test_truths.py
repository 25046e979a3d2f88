"""The questions find known limits of memories, each with a small budget of training.

Sizes and learning rates are chosen so that the memory that can do it learns it in seconds; the one
that cannot gets the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rlmem.diagnose import duration, rewriting
from rlmem.diagnose.question import Batch, below, log_uniform
from rlmem.diagnose.reader import LEARNING_RATE, Reader, accuracy, fit
from rlmem.diagnose.suite import QUESTIONS
from tests.marks import by_night

ROWS = 200
Draw = Callable[[int, torch.Generator], Batch]


def trained(
    reader: Reader, draw: Draw, steps: int, rows: int = 32, rate: float = LEARNING_RATE
) -> Reader:
    generator = torch.Generator().manual_seed(0)
    fit(reader, lambda: draw(rows, generator), steps, rate)
    return reader


def right(reader: Reader, draw: Callable[..., Batch], *size: int) -> float:
    return accuracy(reader, draw(*size, ROWS, torch.Generator().manual_seed(1)))


def parity(core: str, **options: Any) -> dict[str, float]:
    question = QUESTIONS["track-z2"]
    reader = Reader(core, question.inputs, question.answers, 32, options)
    trained(reader, question.train, 200)
    return {name: right(reader, draw) for name, draw in question.tests.items()}


def test_slstm_tracks_parity() -> None:
    found = parity("slstm")
    assert found["64 steps"] > 0.99
    assert found["512 steps"] > 0.99


@pytest.mark.parametrize("core", ["mingru", *by_night(["minlstm", "s6"])])
def test_linear_cores_with_positive_gates_do_not_track_parity(core: str) -> None:
    # Grazzi et al. 2024, theorem 1: with eigenvalues in [0, 1] the state converges on ones.
    assert parity(core)["512 steps"] == pytest.approx(0.5, abs=0.03)


def test_transformer_xl_is_exact_within_its_window_and_at_chance_beyond() -> None:
    memory = 16

    def draw(rows: int, generator: torch.Generator) -> Batch:
        return duration.delay(log_uniform(1, 24, generator), rows, generator)

    reader = trained(Reader("transformer_xl", 17, 8, 32, {"memory": memory}), draw, 200, rate=5e-3)
    # The question comes `delay + 1` steps after the symbol.
    assert [right(reader, duration.delay, delay) for delay in (1, 4, 8, memory - 1)] == [1.0] * 4
    beyond = [right(reader, duration.delay, delay) for delay in (memory, memory + 4, 40)]
    assert beyond == pytest.approx([1 / 8] * 3, abs=0.09)


def latest(core: str, **options: Any) -> list[float]:
    """Accuracies after 1, 4 and 16 writes per key."""

    def draw(rows: int, generator: torch.Generator) -> Batch:
        writes = (1, 2, 4)[int(below(3, (), generator))]
        return rewriting.latest(writes, rows * 4 // writes, generator)

    question = QUESTIONS["rewrite-latest"]
    reader = Reader(core, question.inputs, question.answers, 64, options)
    trained(reader, draw, 200, 16, 1e-2)
    return [right(reader, rewriting.latest, writes) for writes in (1, 4, 16)]


def test_the_delta_rule_rewrites() -> None:
    assert min(latest("deltanet", heads=1, conv_size=1)) > 0.98


@pytest.mark.slow
def test_an_additive_memory_does_not_rewrite() -> None:
    # The decay of retention favours later values, but cannot remove an earlier one.
    once, several, many = latest("retnet")
    assert once > 0.9
    assert several < 0.75
    assert many < 0.6
