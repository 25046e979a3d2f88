"""Rewriting and interference: what is new replaces what was, and strangers leave it alone.

- `rewrite-latest`: each of 8 keys gets several values in turn; the latest one is asked for. An
  additive memory holds the sum of all of them.
- `rewrite-bit`: a bit that is rewritten at random times (the flip-flop language, Liu et al. 2023,
  arXiv 2306.00946), among symbols to ignore.
- `rewrite-forget`: after a `clear`, the answer for keys that were not written again is "nothing".
- `interfere`: 8 pairs are recalled after steps from another distribution, unseen in training.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from rlmem.diagnose.question import Batch, Question, below, episodes, permutations

KEYS, VALUES = 8, 16
NONE = KEYS + VALUES  # no value: a query
CLEAR = NONE + 1
WRITES = (1, 4, 16)
# Tokens of the bit: two writes of a value, a read, and distractors.
READ, DISTRACTORS = 2, 4
STRANGE, STRANGERS = 40, (0, 16, 64, 256)


def latest(writes: int, rows: int, generator: torch.Generator) -> Batch:
    """`writes` values of each key in random order, then all keys. Tokens: keys, values, none."""
    keys = permutations(rows, KEYS * writes, generator) % KEYS
    values = below(VALUES, keys.shape, generator)
    asked = permutations(rows, KEYS, generator)
    # The last write of each key has the largest time.
    times = torch.arange(keys.shape[1]).expand_as(keys)
    last = torch.zeros(rows, KEYS, dtype=torch.long).scatter_reduce(1, keys, times, "amax")
    answer = values.gather(1, last.gather(1, asked))
    return _with_queries(torch.stack([keys, KEYS + values], -1), asked, answer)


def forget(rows: int, generator: torch.Generator) -> Batch:
    """Values of all keys, `clear`, values of half of the keys, then all keys.

    The answer `VALUES` means "nothing". Tokens: keys, values, none, clear.
    """
    first = permutations(rows, KEYS, generator)
    again = permutations(rows, KEYS, generator)[:, : KEYS // 2]
    before, values = below(VALUES, first.shape, generator), below(VALUES, again.shape, generator)
    asked = permutations(rows, KEYS, generator)
    known = torch.full((rows, KEYS), VALUES).scatter(1, again, values)
    clear = torch.full((rows, 1, 2), CLEAR)
    shown = [(first, before), (again, values)]
    blocks = [torch.stack([keys, KEYS + value], -1) for keys, value in shown]
    inputs = torch.cat([blocks[0], clear, blocks[1]], 1)
    return _with_queries(inputs, asked, known.gather(1, asked))


def _with_queries(inputs: Tensor, asked: Tensor, answer: Tensor) -> Batch:
    queries = torch.stack([asked, torch.full_like(asked, NONE)], -1)
    before = torch.full(inputs.shape[:2], -1)
    return episodes(torch.cat([inputs, queries], 1), torch.cat([before, answer], 1))


def bit(share: float, rows: int, generator: torch.Generator, length: int = 128) -> Batch:
    """A step is a write with probability `share`, a read with 0.1, else a distractor.

    The first step is a write. Tokens: write 0, write 1, read, distractors.
    """
    luck = torch.rand(rows, length, generator=generator)
    luck[:, 0] = 0
    value = below(2, (rows, length), generator)
    noise = READ + 1 + below(DISTRACTORS, (rows, length), generator)
    tokens = torch.where(luck < share, value, torch.where(luck < share + 0.1, READ, noise))
    written = tokens < READ
    time = torch.where(written, torch.arange(length), 0).cummax(1).values
    current = tokens.gather(1, time)
    return episodes(tokens, torch.where(tokens == READ, current, -1))


def interfere(strangers: int, rows: int, generator: torch.Generator) -> Batch:
    """8 pairs, steps with strange tokens, then the keys. Tokens: keys, values, none, strangers."""
    keys = permutations(rows, KEYS, generator)
    values = below(VALUES, keys.shape, generator)
    asked = permutations(rows, KEYS, generator)
    known = torch.zeros_like(values).scatter(1, keys, values)
    strange = CLEAR + below(STRANGE, (rows, strangers, 2), generator)
    inputs = torch.cat([torch.stack([keys, KEYS + values], -1), strange], 1)
    return _with_queries(inputs, asked, known.gather(1, asked))


def _any_writes(rows: int, generator: torch.Generator) -> Batch:
    writes = (1, 2, 4, 8)[int(below(4, (), generator))]
    return latest(writes, rows * 8 // writes, generator)


QUESTIONS = [
    Question(
        name="rewrite-latest",
        about="latest of several values of a key",
        inputs=NONE + 1,
        answers=VALUES,
        train=_any_writes,
        tests={f"{n} writes": partial(latest, n) for n in WRITES},
        chance=1 / VALUES,
        rows=16,
    ),
    Question(
        name="rewrite-bit",
        about="bit that is rewritten at random times",
        inputs=READ + 1 + DISTRACTORS,
        answers=2,
        train=partial(bit, 0.2),
        tests={
            "often": partial(bit, 0.2, length=512),
            "seldom": partial(bit, 0.02, length=512),
        },
        chance=0.5,
    ),
    Question(
        name="rewrite-forget",
        about="nothing, after a clear",
        inputs=CLEAR + 1,
        answers=VALUES + 1,
        train=forget,
        tests={"after a clear": forget},
        chance=0.5,
        rows=64,
        test_rows=500,
    ),
    Question(
        name="interfere",
        about="8 pairs after unseen distractors",
        inputs=CLEAR + STRANGE,
        answers=VALUES,
        train=partial(interfere, 0),
        tests={f"{n} strangers": partial(interfere, n) for n in STRANGERS},
        chance=1 / VALUES,
        rows=64,
    ),
]
