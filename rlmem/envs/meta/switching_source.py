"""A source of symbols that changes: predict the next symbol."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, Space
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem.envs import counter_rng
from rlmem.envs.base import Tensors
from rlmem.envs.counter_rng import RandomDraws, RandomSteps
from rlmem.envs.meta.change_points import hazard_ranges
from rlmem.envs.meta.splits import Instances, Splits, Values
from rlmem.envs.meta.task_distribution import SolvableTasks, never
from rlmem.envs.meta.task_env import meta
from rlmem.errors import UsageError, at_least, unknown

ACCURACY, LOG = "accuracy", "log"
SCORES = (ACCURACY, LOG)
# The bounds of predicted log-probabilities.
LIMIT = 8.0


class Source(NamedTuple):
    """A hidden source: `table` are the present probabilities of the next symbol, for each symbol
    (R = S) or for all of them (R = 1). `symbol` is visible, and `following` comes next.
    """

    concentration: Float[Tensor, "N"]
    hazard: Float[Tensor, "N"]
    table: Float[Tensor, "N R S"]
    symbol: Int[Tensor, "N"]
    following: Int[Tensor, "N"]


@meta("meta-switching-source", episodes=200)
class SwitchingSource(SolvableTasks[Source, tuple[()]]):
    """A piecewise stationary source: after each symbol, with probability `hazard`, all
    probabilities are drawn anew. An agent must forget the old ones, and only those.

    An episode is one prediction. The source is a Markov chain (`order` 1), or draws symbols
    independently (`order` 0; two symbols: Bernoulli's). The rows of its table follow a symmetric
    Dirichlet distribution with a `concentration`; small ones make symbols predictable. Each task
    has its own hazard and concentration; they and the changes are hidden. Symbols and changes are
    functions of the task and the number of the prediction, independent of the actions.

    With the score `accuracy` an action is a symbol, and earns 1 if it comes next. With `log` it is
    a vector of log-probabilities up to a constant, in [-8, 8], and earns 1 + log_S of the
    probability that it gives to the next of S symbols: 0 for a uniform prediction, 1 for a certain
    and right one.

    The split `heldout` has other sources, `heldout-hazard` other hazards and
    `heldout-concentration` other concentrations.
    """

    changes = True

    def __init__(
        self,
        symbols: int = 4,
        order: int = 1,
        score: str = ACCURACY,
        concentration: Sequence[float] = (0.5,),
        hazard: Sequence[Sequence[float]] = ((0.005, 0.02),),
        heldout_concentration: Sequence[float] = (1.0, 2.0),
        heldout_hazard: Sequence[Sequence[float]] = ((0.0, 0.005), (0.02, 0.05)),
        **options: Any,
    ) -> None:
        self.symbols = at_least("symbols", symbols, 2)
        if order not in (0, 1):
            raise UsageError(f"order must be 0 or 1, not {order}")
        if score not in SCORES:
            raise unknown("score", score, SCORES)
        self.rows, self.score = (symbols if order else 1), score
        splits = Splits(
            {
                "concentration": _halves(concentration),
                "hazard": hazard_ranges(hazard),
                "table": Instances("dirichlet", (symbols, order)),
            },
            heldout_hazard={"hazard": hazard_ranges(heldout_hazard)},
            heldout_concentration={"concentration": _halves(heldout_concentration)},
        )
        space: Space = Discrete(symbols)
        action = space if score == ACCURACY else Box(-LIMIT, LIMIT, (symbols,), np.float32)
        super().__init__(splits, space, action, **options)

    def draw_task(self, draws: RandomDraws) -> Source:
        """The first probabilities and symbols."""
        concentration, hazard = self.drawn("concentration", draws), self.drawn("hazard", draws)
        table = self._tables(concentration, draws)
        symbol = draws.below(self.symbols, 1)[0]
        following = self._next(table, symbol, draws)
        return Source(concentration, hazard, table, symbol, following)

    def next_task(self, task: Source, draws: RandomDraws) -> Source:
        """The next symbols, and new probabilities for some tasks."""
        switches = draws.uniform(1)[0] < task.hazard
        fresh = self._tables(task.concentration, draws)
        table = torch.where(switches[:, None, None], fresh, task.table)
        following = self._next(table, task.following, draws)
        return task._replace(table=table, symbol=task.following, following=following)

    def _tables(
        self, concentration: Float[Tensor, "M"], draws: RandomDraws
    ) -> Float[Tensor, "M R S"]:
        """Rows of probabilities, from gamma variables."""
        domain = self.domains["concentration"]
        assert isinstance(domain, Values)
        count = self.rows * self.symbols
        weight = torch.zeros(count, draws.size, device=draws.device)
        for shape in domain.values:
            weight = torch.where(concentration == shape, gammas(shape, count, draws), weight)
        table = weight.T.reshape(-1, self.rows, self.symbols)
        # A row of a small concentration may be 0 after rounding.
        table = table + torch.finfo(table.dtype).tiny
        return table / table.sum(-1, keepdim=True)

    def _next(
        self, table: Float[Tensor, "M R S"], symbol: Int[Tensor, "M"], draws: RandomDraws
    ) -> Int[Tensor, "M"]:
        """Random next symbols."""
        luck = draws.uniform(1)[0]
        # The last sum is left out, because rounding may make it smaller than 1.
        return (luck[:, None] >= self._row(table, symbol).cumsum(1)[:, :-1]).sum(1)

    def _row(self, table: Float[Tensor, "M R S"], symbol: Int[Tensor, "M"]) -> Float[Tensor, "M S"]:
        """The probabilities of the next symbol."""
        if self.rows == 1:
            return table[:, 0]
        return table[torch.arange(len(symbol), device=symbol.device), symbol]

    def initial_state(self, task: Source, draws: RandomDraws) -> tuple[()]:
        """Episodes have no state: the symbols belong to the task."""
        return ()

    def transition(
        self, task: Source, state: tuple[()], action: Tensors, random_steps: RandomSteps
    ) -> tuple[tuple[()], Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """Compare the prediction with the next symbol."""
        given = action["action"]
        if self.score == ACCURACY:
            reward = (given == task.following).float()
        else:
            found = given.float().log_softmax(1).gather(1, task.following[:, None])[:, 0]
            reward = 1 + found / log(self.symbols)
        return (), reward, torch.ones_like(reward, dtype=torch.bool), never(reward)

    def observe(self, task: Source, state: tuple[()]) -> Tensors:
        """The present symbol."""
        return {"obs": task.symbol.clone()}

    def predict(self, probability: Float[Tensor, "N S"]) -> Tensors:
        """The best action, if the next symbols have these probabilities."""
        if self.score == ACCURACY:
            return {"action": probability.argmax(1)}
        logits = probability.log().clamp(-LIMIT, LIMIT).to(torch.float32)
        return {"action": logits}

    def best_action(self, plan: Any, task: Source, state: tuple[()]) -> Tensors:
        """The prediction of the source's own probabilities."""
        return self.predict(self._row(task.table, task.symbol))

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The symbol."""
        return f"symbol {int(obs['obs'][row])}"

    def describe_action(self, action: Tensors, row: int) -> str:
        """The predicted symbol, or the predicted probabilities."""
        given = action["action"][row]
        return _numbers(given.softmax(0)) if given.is_floating_point() else f"symbol {int(given)}"

    def reveal(self, task: Source, state: tuple[()], row: int) -> str:
        """The next symbol, its distribution, and the hazard."""
        chances = _numbers(self._row(task.table, task.symbol)[row])
        hazard = f"changes with {float(task.hazard[row]):.3f}"
        return f"next {int(task.following[row])} of {chances}, {hazard}"


def gammas(shape: float, count: int, draws: RandomDraws) -> Float[Tensor, "count M"]:
    """Gamma variables whose shape is a multiple of 1/2.

    They are sums of exponential variables, and of half the square of a normal one.
    """
    total = torch.zeros(count, draws.size, device=draws.device)
    whole = int(shape)
    if whole:
        words = draws.uniform(whole * count).unflatten(0, (whole, count))
        total = words.neg_().log1p_().sum(0).neg_()
    if shape > whole:
        normal = counter_rng.normals(draws.bits(-(-count // 2))).flatten(0, 1)[:count]
        total = total + normal.square() / 2
    return total


def _halves(numbers: Sequence[float]) -> Values:
    """Concentrations as multiples of 1/2; a `UsageError` for others."""
    if any(number <= 0 or 2 * number != int(2 * number) for number in numbers):
        raise UsageError(f"a concentration is a multiple of 0.5 above 0, not one of {numbers}")
    return Values.of([float(number) for number in numbers])


def _numbers(row: Float[Tensor, "S"]) -> str:
    return " ".join(f"{number:.2f}" for number in row.tolist())
