"""Every question can be answered: a solver in plain Python reads each row and is always right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from rlmem.diagnose import capacity, rates, rewriting, tracking
from rlmem.diagnose.question import Batch, Question
from rlmem.diagnose.suite import QUESTIONS

# A solver gets one row of inputs and the step of a question, and knows nothing else.
Solver = Callable[[list[list[int]], int], int]


def by_key(row: list[list[int]], step: int) -> int:
    """The latest value beside the key: the last token of a step is its value."""
    *key, none = row[step]
    for *other, value in reversed(row[:step]):
        if other == key and value != none:
            return value
    raise AssertionError("the key has no value")


def recall(row: list[list[int]], step: int) -> int:
    return by_key(row, step) - capacity.KEYS


def overlap(row: list[list[int]], step: int) -> int:
    return by_key(row, step) - 2 * capacity.HALVES


def joint(row: list[list[int]], step: int) -> int:
    first_context = capacity.KEYS + capacity.VALUES
    context, known = None, {}
    for name, beside in row[: step + 1]:
        if name >= first_context:
            context = name
        elif beside < first_context:
            known[context, name] = beside - capacity.KEYS
    return known[context, row[step][0]]


def disjoint(row: list[list[int]], step: int) -> int:
    tokens = [token for (token,) in row]
    end = tokens.index(capacity.ELEMENTS)
    first, second = set(tokens[:end]), tokens[end + 1 : tokens.index(capacity.ELEMENTS, end + 1)]
    (common,) = first & set(second)
    return common


def first_symbol(row: list[list[int]], step: int) -> int:
    return row[0][0]


def in_order(row: list[list[int]], step: int) -> int:
    return row[step - (len(row) - 8)][0]


def product(group: str) -> Solver:
    generators = tracking.GENERATORS[group]
    table = tracking.multiplication(group)
    # The elements in the order of the table, found by walking through it.
    elements = {0: generators[0]}
    for number in range(len(table)):
        for letter, generator in enumerate(generators):
            found = tuple(elements[number][i] for i in generator)
            assert elements.setdefault(int(table[number, letter]), found) == found
    numbers = {element: number for number, element in elements.items()}
    assert len(numbers) == len(table)

    def solve(row: list[list[int]], step: int) -> int:
        element = generators[0]
        for (letter,) in row[: step + 1]:
            element = tuple(element[i] for i in generators[letter])
        return numbers[element]

    return solve


def majority(row: list[list[int]], step: int) -> int:
    tokens = [token for (token,) in row[: step + 1]]
    return int(np.sign(tokens.count(0) - tokens.count(1))) + 1


def stack_of(row: list[list[int]], step: int, kinds: int) -> list[int]:
    stack: list[int] = []
    for (token,) in row[: step + 1]:
        if token < kinds:
            stack.append(token)
        else:
            assert stack.pop() == token - kinds
    assert len(stack) <= tracking.DEEPEST
    return stack


def depth(row: list[list[int]], step: int) -> int:
    return len(stack_of(row, step, 1))


def innermost(row: list[list[int]], step: int) -> int:
    return (stack_of(row, step, 2) or [2])[-1]


def latest(row: list[list[int]], step: int) -> int:
    return by_key(row, step) - rewriting.KEYS


def last_bit(row: list[list[int]], step: int) -> int:
    return next(token for (token,) in reversed(row[:step]) if token < rewriting.READ)


def after_clear(row: list[list[int]], step: int) -> int:
    known: dict[int, int] = {}
    for key, value in row[:step]:
        if key == rewriting.CLEAR:
            known.clear()
        elif value != rewriting.NONE:
            known[key] = value - rewriting.KEYS
    return known.get(row[step][0], rewriting.VALUES)


SOLVERS: dict[str, Solver] = {
    "recall": recall,
    "recall-overlap": overlap,
    "recall-joint": joint,
    "disjoint-first": disjoint,
    "disjoint-last": disjoint,
    "disjoint-twice": disjoint,
    "delay": first_symbol,
    "copy": in_order,
    **{f"track-{group}": product(group) for group in tracking.GENERATORS},
    "track-count": majority,
    "track-dyck1": depth,
    "track-dyck2": innermost,
    "rewrite-latest": latest,
    "rewrite-bit": last_bit,
    "rewrite-forget": after_clear,
    "interfere": latest,
}


def drawn(question: Question, rows: int) -> dict[str, Batch]:
    """A batch of the training, and of each condition of the test but the longest."""
    draws = {"training": question.train, **question.tests}
    return {
        name: draw(rows, torch.Generator().manual_seed(5))
        for name, draw in draws.items()
        if name not in ("10,000 steps", "65,536 steps")
    }


def test_every_question_has_a_solver() -> None:
    assert {*SOLVERS, "rate"} == set(QUESTIONS)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_answers_every_row(name: str) -> None:
    question = QUESTIONS[name]
    for batch in drawn(question, 20).values():
        inputs = batch.inputs if batch.inputs.dim() == 3 else batch.inputs.unsqueeze(-1)
        assert 0 <= int(inputs.min()) <= int(inputs.max()) < question.inputs
        assert int(batch.answer.max()) < question.answers
        for row, answer in list(zip(inputs.tolist(), batch.answer.tolist(), strict=True))[:20]:
            asked = [step for step, right in enumerate(answer) if right >= 0]
            assert asked
            for step in asked[-4:]:
                assert SOLVERS[name](row, step) == answer[step]


def test_the_rate_is_in_the_spectrum() -> None:
    for rate in (8, 16, 32):
        batch = rates.signal(rate, 400, torch.Generator().manual_seed(5))
        time = torch.arange(batch.inputs.shape[1]) / rate
        waves = [torch.exp(2j * torch.pi * f * time) for f in rates.FREQUENCIES]
        power = torch.stack([(batch.inputs[:, :, 0] * wave).sum(1).abs() for wave in waves], 1)
        assert (power.argmax(1) == batch.answer[:, -1]).float().mean() > 0.99


@pytest.mark.parametrize("name", QUESTIONS)
def test_chance_is_the_share_of_the_most_common_answer(name: str) -> None:
    question = QUESTIONS[name]
    for condition, batch in drawn(question, 3000 if "track" not in name else 600).items():
        if condition == "training":  # it also asks at the first steps
            continue
        answers = batch.answer[batch.answer >= 0]
        share = float(answers.bincount().max()) / len(answers)
        # Answers of one row depend on each other: an interval of rows.
        slack = 3 * (share * (1 - share) / len(batch.answer)) ** 0.5
        assert abs(share - question.chance) < slack + 0.01, (condition, share)


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_seed_gives_the_same_rows(name: str) -> None:
    draw = QUESTIONS[name].train
    a, b = (draw(8, torch.Generator().manual_seed(1)) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("group", "size"), [("z2", 2), ("z3", 3), ("s3", 6), ("a5", 60), ("s5", 120)]
)
def test_orders_of_groups(group: str, size: int) -> None:
    table = tracking.multiplication(group)
    assert len(table) == size
    # A product with one generator is a permutation of the elements.
    for column in table.T:
        assert sorted(column.tolist()) == list(range(size))
