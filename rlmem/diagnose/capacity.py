"""Capacity: how many associations a memory holds.

- `recall`: the multi-query associative recall of Arora et al. 2023 (arXiv 2312.04927). A step shows
  a key together with its value, so that no binding across steps is needed; a query shows a key
  alone. Trained on 4 to 32 pairs, tested on each number.
- `recall-overlap`: keys are pairs of symbols, so that different keys share a half.
- `recall-joint`: the value depends on a context and a key (Zhan et al. 2025, arXiv 2507.00449); a
  context is named once, before its pairs.
- `disjoint-*`: which element is in both of two sets, a small and a large one (Arora et al. 2024,
  arXiv 2407.05483). A memory has to hold the first set; with the small one `last`, that is the
  large one. `twice` reads the rows again, so that it knows what to look for.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from rlmem.diagnose.question import Batch, Question, SizedDraw, below, episodes, permutations

KEYS = VALUES = 64
PAIRS = (4, 8, 16, 32)
HALVES = 8
CONTEXTS = 4
ELEMENTS, SMALL, LARGE = 64, 4, 24


def recall(pairs: int, rows: int, generator: torch.Generator) -> Batch:
    """`pairs` keys with values, then the keys in another order. Tokens: keys, values, none."""
    keys = permutations(rows, KEYS, generator)[:, :pairs]
    return _queried(keys.unsqueeze(-1), KEYS, pairs, generator)


def overlap(pairs: int, rows: int, generator: torch.Generator) -> Batch:
    """As `recall`; a key is two of 2 * 8 symbols. Tokens: symbols, values, none."""
    keys = permutations(rows, HALVES**2, generator)[:, :pairs]
    halves = torch.stack([keys // HALVES, HALVES + keys % HALVES], -1)
    return _queried(halves, 2 * HALVES, pairs, generator)


def _queried(keys: Tensor, tokens: int, pairs: int, generator: torch.Generator) -> Batch:
    """Rows that show `keys` [B, pairs, n] with random values, and ask for them."""
    rows = len(keys)
    values = below(VALUES, (rows, pairs), generator)
    order = permutations(rows, pairs, generator)
    asked = keys.gather(1, order.unsqueeze(-1).expand_as(keys))
    beside = torch.cat([values, torch.full_like(values, VALUES)], 1)
    inputs = torch.cat([torch.cat([keys, asked], 1), tokens + beside.unsqueeze(-1)], -1)
    return episodes(inputs, torch.cat([torch.full_like(values, -1), values.gather(1, order)], 1))


def _mixed(draw: SizedDraw, rows: int, generator: torch.Generator) -> Batch:
    """A random number of pairs, and rows for the same number of steps."""
    pairs = PAIRS[int(below(len(PAIRS), (), generator))]
    return draw(pairs, rows * PAIRS[-1] // pairs, generator)


def joint(keys: int, rows: int, generator: torch.Generator) -> Batch:
    """4 contexts with a value for each of `keys` keys, then contexts and keys in another order.

    Tokens: keys, values, contexts, none.
    """
    blocks = rows, CONTEXTS, keys
    values = below(VALUES, blocks, generator)
    shown = torch.stack([permutations(rows, keys, generator) for _ in range(CONTEXTS)], 1)
    asked = torch.stack([permutations(rows, keys, generator) for _ in range(CONTEXTS)], 1)
    contexts = permutations(rows, CONTEXTS, generator)
    first = torch.arange(CONTEXTS).expand(rows, -1)
    none, base = KEYS + VALUES + CONTEXTS, KEYS + VALUES

    def block(names: Tensor, keys: Tensor, beside: Tensor) -> Tensor:
        head = torch.stack([base + names, torch.full_like(names, none)], -1).unsqueeze(2)
        return torch.cat([head, torch.stack([keys, beside], -1)], 2).flatten(1, 2)

    index = contexts.unsqueeze(-1).expand(blocks)
    order = asked.gather(1, index)
    answer = values.gather(1, index).gather(2, order)
    beside = values.gather(2, shown) + KEYS
    inputs = torch.cat(
        [block(first, shown, beside), block(contexts, order, torch.full(blocks, none))], 1
    )
    head = torch.full((rows, CONTEXTS, 1), -1)
    answers = torch.cat([head, answer], 2).flatten(1)
    return episodes(inputs, torch.cat([torch.full_like(answers, -1), answers], 1))


def disjoint(first: str, passes: int, rows: int, generator: torch.Generator) -> Batch:
    """A small and a large set with one common element, then a question for it.

    `first` is the set that is read first, `small` or `large`. Tokens: elements, a separator, `?`.
    """
    drawn = permutations(rows, ELEMENTS, generator)
    small, large = drawn[:, :SMALL], drawn[:, SMALL - 1 : SMALL - 1 + LARGE]
    common = drawn[:, SMALL - 1]
    small = small.gather(1, permutations(rows, SMALL, generator))
    large = large.gather(1, permutations(rows, LARGE, generator))
    sets = (small, large) if first == "small" else (large, small)
    between = torch.full((rows, 1), ELEMENTS)
    once = torch.cat([sets[0], between, sets[1], between], 1)
    inputs = torch.cat([once] * passes + [between + 1], 1)
    answer = torch.full_like(inputs, -1)
    answer[:, -1] = common
    return episodes(inputs, answer)


def _recall_question(name: str, about: str, tokens: int, draw: SizedDraw) -> Question:
    return Question(
        name=name,
        about=about,
        inputs=tokens + VALUES + 1,
        answers=VALUES,
        train=partial(_mixed, draw),
        tests={f"{n} pairs": partial(draw, n) for n in PAIRS},
        chance=1 / VALUES,
        rows=16,
    )


def _disjoint_question(name: str, about: str, first: str, passes: int) -> Question:
    draw = partial(disjoint, first, passes)
    return Question(
        name=f"disjoint-{name}",
        about=about,
        inputs=ELEMENTS + 2,
        answers=ELEMENTS,
        train=draw,
        tests={"common element": draw},
        chance=1 / ELEMENTS,
        rows=64,
        test_rows=500,
    )


QUESTIONS = [
    _recall_question("recall", "values of 4 to 32 keys", KEYS, recall),
    _recall_question("recall-overlap", "keys that share halves", 2 * HALVES, overlap),
    Question(
        name="recall-joint",
        about="values of keys in four contexts",
        inputs=KEYS + VALUES + CONTEXTS + 1,
        answers=VALUES,
        train=partial(joint, 4),
        tests={"4 keys": partial(joint, 4)},
        chance=1 / VALUES,
        rows=32,
    ),
    _disjoint_question("first", "common element, small set first", "small", 1),
    _disjoint_question("last", "common element, large set first", "large", 1),
    _disjoint_question("twice", "common element, large set first, read twice", "large", 2),
]
