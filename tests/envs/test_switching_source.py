"""Changing sources: distributions of tables, symbols and changes; scores of predictions."""

from __future__ import annotations

from math import log
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from rlmem import envs
from rlmem.envs.counter_rng import RandomDraws, keys
from rlmem.envs.meta.switching_source import gammas
from rlmem.errors import UsageError
from tests.envs import distribution_asserts


def make(num_envs: int, **options: Any) -> Any:
    env = envs.make("meta-switching-source", num_envs=num_envs, **options)
    env.reset(1)
    return env


def predict(env: Any, action: Tensor | int) -> Any:
    action = torch.as_tensor(action)
    return env.step({"action": action.expand(env.num_envs, *action.shape)})


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.5])
def test_gamma_variables(shape: float) -> None:
    draws = RandomDraws(keys(range(1000)), torch.zeros(1000, dtype=torch.int64))
    found = gammas(shape, 3, draws)
    assert found.shape == (3, 1000)
    chance = stats.gamma(shape).cdf(found.double().numpy())
    distribution_asserts.assert_follows(torch.as_tensor(chance), "uniform")


def test_tables_follow_the_dirichlet_distribution() -> None:
    env = make(2000, concentration=[0.5, 2.0], heldout_concentration=[3.0])
    task = env.env.task
    torch.testing.assert_close(task.table.sum(-1), torch.ones(2000, 4))
    for size in (0.5, 2.0):
        entry = task.table[task.concentration == size][:, 1, 2]
        assert 900 < len(entry) < 1100
        chance = stats.beta(size, 3 * size).cdf(entry.double().numpy())
        distribution_asserts.assert_follows(torch.as_tensor(chance), "uniform")


@pytest.mark.parametrize("order", [0, 1])
def test_symbols_follow_the_table(order: int) -> None:
    options = {"hazard": [[0.0, 1e-9]], "heldout_hazard": [[0.5, 0.6]]}
    env = make(400, symbols=3, order=order, episodes=100, **options)
    table = env.env.task.table.clone()
    seen = [env.env.task.symbol]
    for _ in range(99):
        seen.append(predict(env, 0).obs["obs"])
    assert torch.equal(env.env.task.table, table)
    now, later = torch.stack(seen[:-1]), torch.stack(seen[1:])
    rows = now if order else torch.zeros_like(now)
    chance = table[torch.arange(400), rows]  # [99, 400, 3]
    hits = torch.nn.functional.one_hot(later, 3)
    variance = (chance * (1 - chance)).sum((0, 1))
    assert (((hits - chance).sum((0, 1)) / variance.sqrt()).abs() < 4).all()
    # The rows are those of the table, not their mean.
    assert abs(float((hits * chance).sum(-1).mean() - chance.square().sum(-1).mean())) < 0.01
    assert table.shape[1] == (3 if order else 1)


def test_all_probabilities_change_together_with_the_hazard_of_the_task() -> None:
    env = make(400, hazard=[[0.05, 0.1]], heldout_hazard=[[0.2, 0.3]])
    hazard, tables = env.env.task.hazard.clone(), []
    distribution_asserts.assert_follows((hazard - 0.05) / 0.05, "uniform")
    for _ in range(100):
        tables.append(env.env.task.table.clone())
        predict(env, 0)
    table = torch.stack(tables)
    differs = table[1:] != table[:-1]
    changes = differs.flatten(2).any(2)
    assert torch.equal(changes, differs.any(3).all(2))
    deviation = (changes.sum(0) - 99 * hazard) / (99 * hazard * (1 - hazard)).sqrt()
    assert abs(float(deviation.mean())) < 3 / 400**0.5


def test_symbols_do_not_depend_on_predictions_and_scores_are_as_described() -> None:
    one, other = make(50), make(50, score="log")
    logits = torch.tensor([0.0, 1.0, -1.0, 3.0])
    for t in range(60):
        following = one.env.task.following.clone()
        step, scored = predict(one, t % 4), predict(other, logits)
        assert torch.equal(step.obs["obs"], scored.obs["obs"])
        assert torch.equal(step.obs["obs"], following)
        assert torch.equal(step.reward, (following == t % 4).float())
        expected = 1 + logits.log_softmax(0)[following] / log(4)
        torch.testing.assert_close(scored.reward, expected)
    torch.testing.assert_close(predict(other, torch.zeros(4)).reward, torch.zeros(50))


def test_words() -> None:
    env = make(1, symbols=2, score="log", concentration=[3.0])
    task = env.env.task
    row = task.table[0, int(task.symbol)]
    text = f"next {int(task.following)} of {row[0]:.2f} {row[1]:.2f}, changes with"
    assert env.env.reveal(0) == f"{text} {float(task.hazard):.3f}"
    assert env.env.describe_action({"action": torch.zeros(1, 2)}, 0) == "0.50 0.50"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"symbols": 1}, "symbols must be an integer of at least 2, not 1"),
        ({"order": 2}, "order must be 0 or 1, not 2"),
        ({"score": "acuracy"}, "unknown score 'acuracy'; did you mean accuracy"),
        ({"concentration": [0.7]}, "a concentration is a multiple of 0.5 above 0, not one of"),
        ({"concentration": [1.0]}, "'heldout-concentration' overlaps"),
        ({"hazard": [[0.5, 1.5]]}, "hazard must be between 0 and 1, not 1.5"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(1, **options)
