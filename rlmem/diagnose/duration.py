"""Duration: how long a memory lasts, far beyond the delays of training.

- `delay`: one of 8 symbols, then random distractors, then a question for it.
- `copy`: 8 symbols, then blanks, then a question for each in order.
- `gradients`: the decay of an input's influence over time (not a question; see `influence`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from rlmem.diagnose.question import Batch, Question, SizedDraw, below, episodes, log_uniform
from rlmem.diagnose.reader import Reader

SYMBOLS, NOISE, LENGTH = 8, 8, 8
LONGEST = 256  # in training
DELAYS = (10, 100, 1_000, 10_000, 65_536)
ELEMENTS_PER_BATCH = 4_096  # of training: short delays have more rows


def delay(steps: int, rows: int, generator: torch.Generator) -> Batch:
    """A symbol, `steps` distractors, a question. Tokens: symbols, distractors, `?`."""
    symbol = below(SYMBOLS, (rows, 1), generator)
    noise = SYMBOLS + below(NOISE, (rows, steps), generator)
    question = torch.full((rows, 1), SYMBOLS + NOISE)
    answer = torch.full((rows, steps + 2), -1)
    answer[:, -1:] = symbol
    return episodes(torch.cat([symbol, noise, question], 1), answer)


def copy(steps: int, rows: int, generator: torch.Generator) -> Batch:
    """8 symbols, `steps` blanks, 8 questions. Tokens: symbols, blank, `?`."""
    symbols = below(SYMBOLS, (rows, LENGTH), generator)
    blank = torch.full((rows, steps), SYMBOLS)
    question = torch.full((rows, LENGTH), SYMBOLS + 1)
    answer = torch.full((rows, steps + LENGTH), -1)
    return episodes(torch.cat([symbols, blank, question], 1), torch.cat([answer, symbols], 1))


def _train_delay(rows: int, generator: torch.Generator) -> Batch:
    steps = log_uniform(1, LONGEST, generator)
    return delay(steps, max(rows // 2, ELEMENTS_PER_BATCH // (steps + 2)), generator)


def _train_copy(rows: int, generator: torch.Generator) -> Batch:
    return copy(log_uniform(1, 64, generator), rows, generator)


def influence(reader: Reader, delays: list[int], rows: int = 8, seed: int = 0) -> list[float]:
    """The mean norm of dy[k]/dx[0] along a random direction of y, for each delay k.

    `x` are the core's inputs and `y` its outputs, on rows of distractors.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = SYMBOLS + below(NOISE, (rows, delays[-1] + 1), generator)
    start = torch.zeros(tokens.shape, dtype=torch.bool)
    start[:, 0] = True
    direction = torch.randn(rows, reader.core.output_size, generator=generator)
    direction /= direction.norm(dim=1, keepdim=True)
    embedded = reader.embed(tokens).detach()
    first = embedded[:, :1].requires_grad_()
    found: list[float] = []
    state: Any = reader.core.initial_state(rows)
    done, x = 0, torch.cat([first, embedded[:, 1:]], 1)
    for k in delays:
        y, state = reader.core.scan(x[:, done : k + 1], state, start[:, done : k + 1])
        done = k + 1
        (slope,) = torch.autograd.grad((y[:, -1] * direction).sum(), first, retain_graph=True)
        found.append(slope.flatten(1).norm(dim=1).mean().item())
    return found


def _rows_for(steps: int) -> int:
    return max(32, min(200, 200_000 // steps))


def _test(draw: SizedDraw, steps: int, rows: int, generator: torch.Generator) -> Batch:
    return draw(steps, min(rows, _rows_for(steps)), generator)


QUESTIONS = [
    Question(
        name="delay",
        about="a symbol after up to 65,536 distractors (trained on up to 256)",
        inputs=SYMBOLS + NOISE + 1,
        answers=SYMBOLS,
        train=_train_delay,
        tests={f"{d:,} steps": partial(_test, delay, d) for d in DELAYS},
        chance=1 / SYMBOLS,
    ),
    Question(
        name="copy",
        about="8 symbols in order after up to 1,000 blanks (trained on up to 64)",
        inputs=SYMBOLS + 2,
        answers=SYMBOLS,
        train=_train_copy,
        tests={f"{d:,} steps": partial(_test, copy, d) for d in (10, 50, 250, 1_000)},
        chance=1 / SYMBOLS,
    ),
]
