"""State tracking: products of group elements, counting and brackets.

- `z2` ... `s5`: the word problem of a group (Merrill et al. 2024, arXiv 2404.08819): the product of
  all elements so far. Z2 is parity; A5 and S5 are not solvable, so a constant number of linear
  layers with diagonal gates cannot solve them (S3 needs two). Tokens are generators, so few steps
  of training are enough. Trained on 4 to 64 steps, tested at steps 33 to 64 and 449 to 512.
- `count`: whether there were more `a` than `b` so far.
- `dyck1`, `dyck2`: the depth of brackets, and the innermost open bracket of two kinds.
"""

from __future__ import annotations

from functools import cache, partial

import torch
from torch import Tensor

from rlmem.diagnose.question import Batch, Question, below, episodes, log_uniform

Permutation = tuple[int, ...]
SHORTEST, TRAINED, TESTED = 4, 64, 512
DEEPEST = 8
FARTHEST = 8

# The generators of each group as permutations, the identity first.
GENERATORS: dict[str, list[Permutation]] = {
    "z2": [(0, 1), (1, 0)],
    "z3": [(0, 1, 2), (1, 2, 0), (2, 0, 1)],
    "s3": [(0, 1, 2), (1, 0, 2), (1, 2, 0)],
    "a5": [(0, 1, 2, 3, 4), (1, 2, 0, 3, 4), (1, 2, 3, 4, 0)],
    "s5": [(0, 1, 2, 3, 4), (1, 0, 2, 3, 4), (1, 2, 3, 4, 0)],
}


@cache
def multiplication(group: str) -> Tensor:
    """The table [elements, generators]: the number of the product of an element and a generator.

    Element 0 is the identity.
    """
    generators = GENERATORS[group]
    elements = {generators[0]: 0}
    rows: list[list[int]] = []
    for element in (waiting := [generators[0]]):
        products = [tuple(element[i] for i in generator) for generator in generators]
        for each in products:
            if each not in elements:
                elements[each] = len(elements)
                waiting.append(each)
        rows.append([elements[each] for each in products])
    return torch.tensor(rows)


def words(group: str, rows: int, generator: torch.Generator, length: int, asked: int) -> Batch:
    """Random generators; the answers are the products so far, in the last `asked` steps."""
    table = multiplication(group)
    letters = below(table.shape[1], (rows, length), generator)
    element = torch.zeros(rows, dtype=torch.long)
    answer = torch.full((rows, length), -1)
    for t in range(length):
        element = table[element, letters[:, t]]
        if t >= length - asked:
            answer[:, t] = element
    return episodes(letters, answer)


def count(rows: int, generator: torch.Generator, length: int, asked: int) -> Batch:
    """Tokens `a` and `b`; answers: more `b`, equal, more `a`. The difference stays within 8."""
    answer = torch.full((rows, length), -1)
    letters = below(2, (rows, length), generator)
    total = torch.zeros(rows, dtype=torch.long)
    for t in range(length):
        letters[:, t] = torch.where(total >= FARTHEST, 1, letters[:, t])
        letters[:, t] = torch.where(total <= -FARTHEST, 0, letters[:, t])
        total += 1 - 2 * letters[:, t]
        if t >= length - asked:
            answer[:, t] = total.sign() + 1
    return episodes(letters, answer)


def brackets(kinds: int, rows: int, generator: torch.Generator, length: int, asked: int) -> Batch:
    """Random brackets of a depth up to 8. Tokens: `kinds` opening ones, then the closing ones.

    The answers are depths (0 to 8) for one kind, else the kind of the innermost open bracket, or
    `kinds` if none is open.
    """
    tokens = torch.zeros(rows, length, dtype=torch.long)
    answer = torch.full((rows, length), -1)
    stack = torch.full((rows, DEEPEST + 1), kinds)
    depth = torch.zeros(rows, dtype=torch.long)
    row = torch.arange(rows)
    opens, kind = below(2, (rows, length), generator) > 0, below(kinds, (rows, length), generator)
    for t in range(length):
        opening = torch.where(depth == 0, True, opens[:, t] & (depth < DEEPEST))
        top = stack[row, depth]
        tokens[:, t] = torch.where(opening, kind[:, t], kinds + top)
        depth = depth + torch.where(opening, 1, -1)
        stack[row[opening], depth[opening]] = kind[opening, t]
        if t >= length - asked:
            answer[:, t] = depth if kinds == 1 else stack[row, depth]
    return episodes(tokens, answer)


def _at_lengths(draw: partial[Batch]) -> dict[str, partial[Batch]]:
    lengths = ((TRAINED, 32), (TESTED, 64))
    return {f"{n} steps": partial(draw, length=n, asked=asked) for n, asked in lengths}


def _train(draw: partial[Batch], rows: int, generator: torch.Generator) -> Batch:
    """Rows of a random length: short words show the rule, long ones that it must last."""
    length = log_uniform(SHORTEST, TRAINED, generator)
    return draw(rows=rows * TRAINED // length, generator=generator, length=length, asked=length)


def _question(
    name: str, about: str, inputs: int, draw: partial[Batch], chance: float, steps: int = 400
) -> Question:
    return Question(
        name=f"track-{name}",
        about=about,
        inputs=inputs,
        answers=_answers(draw),
        train=partial(_train, draw),
        tests=_at_lengths(draw),
        chance=chance,
        steps=steps,
    )


def _answers(draw: partial[Batch]) -> int:
    batch = draw(length=TESTED, asked=TESTED, rows=64, generator=torch.Generator().manual_seed(0))
    return int(batch.answer.max()) + 1


def most_common(draw: partial[Batch], rows: int = 2000, length: int = TRAINED) -> float:
    """The accuracy of the best constant answer."""
    batch = draw(length=length, asked=32, rows=rows, generator=torch.Generator().manual_seed(1))
    asked = batch.answer[batch.answer >= 0]
    return float(asked.bincount().max()) / len(asked)


def _group_question(group: str) -> Question:
    size = len(multiplication(group))
    about = f"products of {group.upper()} ({size} elements)"
    draw = partial(words, group)
    steps = 1_000 if size > 6 else 400
    return _question(group, about, len(GENERATORS[group]), draw, 1 / size, steps)


# The share of the most common answer (tests compare with drawn rows).
COUNT_CHANCE, DYCK1_CHANCE, DYCK2_CHANCE = 0.45, 0.125, 0.47

QUESTIONS = [
    *map(_group_question, GENERATORS),
    _question("count", "more a than b", 2, partial(count), COUNT_CHANCE),
    _question("dyck1", "depth of brackets", 2, partial(brackets, 1), DYCK1_CHANCE),
    _question("dyck2", "innermost open bracket", 4, partial(brackets, 2), DYCK2_CHANCE),
]
