"""Exact Bayes filters of changing tasks, compared with sums over all possible changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise, product
from math import lgamma
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlmem import envs
from rlmem.envs.meta.change_players import ChangeThompson, ChangeUCB, SourcePlayer
from rlmem.envs.meta.change_points import Hazards
from rlmem.envs.meta.reference import references
from rlmem.envs.meta.splits import Ranges

LOW, HIGH = 0.1, 0.6
HAZARD = {"hazard": [[LOW, HIGH]], "heldout_hazard": [[0.7, 0.8]]}
# The log-probability of the observations of a segment without changes.
Evidence = Callable[[Sequence[Any]], float]


def make(name: str, num_envs: int, **options: Any) -> Any:
    env = envs.make(f"meta-switching-{name}", num_envs=num_envs, **HAZARD, **options)
    env.reset(1)
    return env


def probability(history: Sequence[Any], evidence: Evidence) -> float:
    """The probability of observations: a sum over all sequences of changes, and all hazards."""
    hazard = LOW + (HIGH - LOW) * (np.arange(400) + 0.5) / 400
    total = 0.0
    for changes in product((False, True), repeat=max(len(history) - 1, 0)):
        ends = [i + 1 for i, changed in enumerate(changes) if changed]
        bounds = list(zip([0, *ends], [*ends, len(history)], strict=True))
        known = np.exp(sum(evidence(history[first:last]) for first, last in bounds))
        k, n = sum(changes), len(changes)
        total += float(known * (hazard**k * (1 - hazard) ** (n - k)).mean())
    return total


def dirichlet(counts: Sequence[float], prior: Sequence[float]) -> float:
    """The log-probability of a sequence with these counts, whose distribution has this prior."""
    both = zip(counts, prior, strict=True)
    parts = sum(lgamma(n + a) - lgamma(a) for n, a in both)
    return parts - lgamma(sum(counts) + sum(prior)) + lgamma(sum(prior))


def pulls(segment: Sequence[tuple[int, int]], prior: tuple[int, int] = (1, 1)) -> float:
    """The evidence of pulls (arm, payout)."""
    arms = {arm for arm, _ in segment}
    found = [[paid for each, paid in segment if each == arm] for arm in arms]
    return sum(dirichlet([sum(paid), len(paid) - sum(paid)], prior) for paid in found)


@pytest.mark.parametrize("prior", [(1, 1), (2, 5)])
def test_the_posterior_of_a_bandit_is_exact(prior: tuple[int, int]) -> None:
    priors = {"prior": [list(prior)], "heldout_prior": [[9, 9]]}
    env = make("bandit", 3, arms=[2], heldout_arms=[3], episodes=6, **priors)
    player = ChangeUCB(env.env, env.env.distribution)
    obs, state = env.reset(2), player.initial_state(3)
    start = torch.ones(3, dtype=torch.bool)
    history: list[list[tuple[int, int]]] = [[], [], []]
    generator = torch.Generator().manual_seed(0)
    for t in range(12):
        state = player.act(obs, state, start).state
        a, b = player._beta(state)
        mean = (state.points.points()[..., None] * a / (a + b)).sum(1)
        for row in range(3):
            past = history[row] if t % 6 else []
            known = probability(past, lambda seen: pulls(seen, prior))
            for arm in range(2):
                won = probability([*past, (arm, 1)], lambda seen: pulls(seen, prior))
                assert float(mean[row, arm]) == pytest.approx(won / known, rel=1e-5)
        arm = torch.randint(2, (3,), generator=generator)
        step = env.step({"action": arm})
        for row in range(3):
            pull = (int(arm[row]), int(step.reward[row]))
            history[row] = [*(history[row] if t % 6 else []), pull]
        obs, start = step.obs, step.memory_reset


def sequence(order: int, symbols: int, prior: float) -> Evidence:
    """The evidence of symbols, given as pairs (previous, next)."""

    def evidence(segment: Sequence[tuple[int, int]]) -> float:
        rows = range(symbols if order else 1)
        found = [[n for p, n in segment if not order or p == row] for row in rows]
        each = ([row.count(s) for s in range(symbols)] for row in found)
        return sum(dirichlet(counts, [prior] * symbols) for counts in each)

    return evidence


@pytest.mark.parametrize(("order", "concentration"), [(0, 0.5), (1, 0.5), (1, 2.0)])
def test_the_prediction_of_a_source_is_exact(order: int, concentration: float) -> None:
    env = make(
        "source",
        4,
        symbols=3,
        order=order,
        score="log",
        concentration=[concentration],
        heldout_concentration=[7.0],
        episodes=7,
    )
    player = SourcePlayer(env.env, env.env.distribution)
    evidence = sequence(order, 3, concentration)
    obs, state, start = env.reset(2), player.initial_state(4), torch.ones(4, dtype=torch.bool)
    shown: list[Tensor] = []
    for t in range(14):
        choice = player.act(obs, state, start)
        shown = [obs["obs"]] if t % 7 == 0 else [*shown, obs["obs"]]
        predicted = choice.action["action"].softmax(1)
        for row in range(4):
            symbols = [int(each[row]) for each in shown]
            past = list(pairwise(symbols))
            known = probability(past, evidence)
            for symbol in range(3):
                pair = (symbols[-1], symbol)
                expected = probability([*past, pair], evidence) / known
                assert float(predicted[row, symbol]) == pytest.approx(expected, rel=1e-4)
        step = env.step(choice.action)
        obs, state, start = step.obs, choice.state, step.memory_reset


def test_hazards_are_integrated_exactly() -> None:
    hazards = Hazards.uniform(Ranges.of([[0.0, 0.02], [0.1, 0.2]]), torch.device("cpu"))
    grid = torch.cat([torch.linspace(0, 0.02, 20_001), torch.linspace(0.1, 0.2, 100_001)]).double()
    assert float(hazards.weight.sum()) == pytest.approx(1)
    for changes in (0, 3, 20):
        found = (hazards.weight * hazards.value**changes * (1 - hazards.value) ** 180).sum()
        expected = (grid**changes * (1 - grid) ** 180).mean()
        assert float(found) == pytest.approx(float(expected), rel=1e-2)


@cache
def optimum(left: int, history: tuple[tuple[int, int], ...]) -> float:
    """The expected return of the optimal policy on two arms, by exhaustive search."""
    if left == 0:
        return 0.0
    known, found = probability(history, pulls), []
    for arm in range(2):
        chance = probability([*history, (arm, 1)], pulls) / known
        wins, loses = (optimum(left - 1, (*history, (arm, paid))) for paid in (1, 0))
        found.append(chance * (1 + wins) + (1 - chance) * loses)
    return max(found)


def play(env: Any, player: Any, steps: int) -> Tensor:
    """The returns of a player."""
    obs, state = env.reset(5), player.initial_state(env.num_envs)
    start, total = torch.ones(env.num_envs, dtype=torch.bool), torch.zeros(env.num_envs)
    for _ in range(steps):
        choice = player.act(obs, state, start)
        step = env.step(choice.action)
        total += step.reward
        obs, state, start = step.obs, choice.state, step.memory_reset
    return total


def test_the_policy_on_the_posterior_is_nearly_optimal_on_two_arms() -> None:
    env = make("bandit", 20_000, arms=[2], heldout_arms=[1], episodes=4)
    total = play(env, ChangeUCB(env.env, env.env.distribution), 4)
    best = optimum(4, ())
    assert best - 0.04 < float(total.mean()) < best + 4 * float(total.std()) / 20_000**0.5


def test_thompson_samples_the_posterior() -> None:
    env = make("bandit", 4000, arms=[2], heldout_arms=[3], episodes=9)
    player = ChangeThompson(env.env, env.env.distribution)
    obs, state = env.reset(0), player.initial_state(4000)
    start = torch.ones(4000, dtype=torch.bool)
    # Arm 0 has paid twice in every environment, and arm 1 never.
    for arm, paid in ((0, 1.0), (0, 1.0), (1, 0.0)):
        state = player.act(obs, state, start).state
        start = torch.zeros_like(start)
        last = {"previous_action": torch.full((4000,), arm)}
        obs = obs | last | {"previous_reward": torch.full((4000,), paid)}
    state = player.act(obs, state, start).state
    a, b = player._beta(state)
    index, mean = player.index(state, a, b), (state.points.points()[..., None] * a / (a + b)).sum(1)
    deviation = index.std(0) / 4000**0.5
    assert ((index.mean(0) - mean[0]).abs() < 4 * deviation).all()


def test_order_of_the_players() -> None:
    env = envs.make("meta-switching-bandit", num_envs=100, episodes=50)
    env.reset(0)
    torch.manual_seed(0)
    mean = {name: float(play(env, p, 50).mean()) for name, p in references(env).items()}
    names = ["random", "ucb", "thompson", "fading-thompson", "bayes-thompson", "bayes", "oracle"]
    assert list(mean) == names
    assert mean["bayes"] > mean["fading-thompson"] + 1
    source = envs.make("meta-switching-source", num_envs=100, episodes=50)
    source.reset(0)
    scores = {name: float(play(source, p, 50).mean()) for name, p in references(source).items()}
    assert list(scores) == ["random", "stationary", "bayes", "oracle"]
    assert list(scores.values()) == sorted(scores.values())
