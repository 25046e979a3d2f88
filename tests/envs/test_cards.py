"""POPGym's card games and bandit on tensors: fair decks, optimal play, descriptions."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlmem import envs
from rlmem.envs.popgym import cards
from rlmem.envs.popgym.task import DIFFICULTIES
from tests.envs import distribution_asserts

N = 10_000


def make(name: str, num_envs: int = N, difficulty: str = "easy") -> Any:
    return envs.make(name, num_envs=num_envs, difficulty=difficulty, previous_action=False)


def watch(env: Any, seed: int, steps: int) -> Tensor:
    """Observations of the first steps of an episode, [steps + 1, N, leaves]."""
    action = {"action": torch.zeros(env.num_envs, dtype=torch.int64)}
    obs = [env.reset(seed)] + [env.step(action).final_obs for _ in range(steps)]
    return torch.stack([torch.stack([*seen.values()], -1).flatten(1) for seen in obs])


def assert_dealt(seen: Tensor, kinds: int, cards_of_each: int) -> None:
    """Each position has a random kind, and the next position one of the remaining cards."""
    pairs = distribution_asserts.without_replacement([cards_of_each] * kinds)
    for row in seen:
        distribution_asserts.assert_uniform(row, kinds)
    for row, following in pairwise(seen):
        distribution_asserts.assert_frequencies(row * kinds + following, pairs)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize(
    ("name", "kinds", "part"),
    [
        ("popgym-repeat", 4, 0),
        ("popgym-repeat-first", 4, 0),
        ("popgym-autoencode", 4, 1),
        ("popgym-higher-lower", 13, 0),
    ],
)
def test_decks_are_shuffled(name: str, kinds: int, part: int, difficulty: str) -> None:
    env = make(name, N, difficulty)
    assert_dealt(watch(env, 1, 5)[..., part], kinds, env.cards // kinds)


@pytest.mark.parametrize(("difficulty", "kinds"), [("easy", 2), ("medium", 4), ("hard", 13)])
def test_two_decks_are_shuffled_independently(difficulty: str, kinds: int) -> None:
    env = make("popgym-count-recall", N, difficulty)
    seen = watch(env, 2, 4)
    for part in (0, 1):
        assert_dealt(seen[..., part], kinds, env.cards // kinds)
    for row in seen:
        distribution_asserts.assert_uniform(row[:, 0] * kinds + row[:, 1], kinds**2)


@pytest.mark.parametrize("name", ["popgym-repeat", "popgym-higher-lower"])
def test_later_episodes_are_shuffled(name: str) -> None:
    env = make(name)
    seen = watch(env, 3, 2 * env.length + 3)[..., 0]
    kinds = 4 if name == "popgym-repeat" else 13
    # The first card of the next episode is in `obs`, not in `final_obs`.
    assert_dealt(seen[2 * env.length + 1 :], kinds, 52 // kinds)
    # The last cards of an episode have the same distribution as the first ones.
    assert_dealt(seen[env.length - 3 : env.length + 1], kinds, 52 // kinds)
    first, second = seen[1], seen[env.length + 1]
    distribution_asserts.assert_uniform(first * kinds + second, kinds**2)


@pytest.mark.parametrize(("difficulty", "kinds"), [("easy", 2), ("medium", 2), ("hard", 13)])
def test_concentration_boards_are_fair(difficulty: str, kinds: int) -> None:
    env = make("popgym-concentration", N, difficulty)
    env.reset(4)
    table = env.state.cards.T.long()
    some = table[[0, 1, 2, 3, env.places // 2, env.places - 2, env.places - 1]]
    assert_dealt(some, kinds, env.places // kinds)
    counts = torch.stack([(table == kind).sum(0) for kind in range(kinds)])
    assert (counts == env.places // kinds).all()


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_arms_pay_with_their_chances(difficulty: str) -> None:
    env = make("popgym-bandit", N, difficulty)
    env.reset(5)
    for chance in env.state.chance:
        distribution_asserts.assert_follows(chance, "uniform")
    distribution_asserts.assert_independent(env.state.chance[0], env.state.chance[-1])
    distribution_asserts.assert_independent(env.state.chance[0, 1:], env.state.chance[0, :-1])
    assert torch.equal(env.state.chance * 2**24, (env.state.chance * 2**24).round())
    # The payouts of one arm are binomial; tested by the normal approximation.
    arm = torch.arange(N) % env.arms
    chance = env.state.chance.gather(0, arm[None])[0]
    pays = torch.stack([env.step({"action": arm}).obs["obs"] for _ in range(100)]).double()
    middle = (chance > 0.2) & (chance < 0.8)
    spread = (100 * chance * (1 - chance)).sqrt()
    score = ((pays.sum(0) - 100 * chance) / spread)[middle].double()
    assert abs(float(score.mean())) < 4 / len(score) ** 0.5
    assert abs(float(score.var()) - 1) < 4 * (2 / len(score)) ** 0.5
    distribution_asserts.assert_frequencies(
        pays[0], [float((1 - chance).mean()), float(chance.mean())]
    )
    # Payouts of different steps are independent.
    likely = (chance > 0.4) & (chance < 0.6)
    again = torch.corrcoef(torch.stack([(row - chance)[likely] for row in pays[:8]]))
    assert (again - torch.eye(8)).abs().max() < 5 / int(likely.sum()) ** 0.5


def test_arms_with_extreme_chances() -> None:
    env = make("popgym-bandit", 1000)
    env.draw_chances = lambda draws: torch.tensor([0.0, 1 - 2.0**-24])[:, None].expand(-1, 1000)
    env.arms = 2
    env._first_arm = torch.arange(1000) * 2
    env.reset(0)
    for arm in (0, 1):
        action = {"action": torch.full((1000,), arm)}
        rewards = torch.stack([env.step(action).reward for _ in range(50)])
        torch.testing.assert_close(rewards, torch.full_like(rewards, (2 * arm - 1) / 200))


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_remembering_the_first_card_scores_one(difficulty: str) -> None:
    env = make("popgym-repeat-first", 10, difficulty)
    first = env.reset(1)["obs"].clone()
    total = sum(env.step({"action": first}).reward.double() for _ in range(env.length))
    torch.testing.assert_close(total, torch.ones(10).double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_remembering_all_cards_scores_one_on_autoencode(difficulty: str) -> None:
    env = make("popgym-autoencode", 10, difficulty)
    seen: list[Tensor] = []
    obs, total = env.reset(1), torch.zeros(10).double()
    for t in range(env.length):
        if len(seen) < env.cards:
            seen.append(obs["obs.1"])
        assert (obs["obs.0"] == int(t + 1 < env.cards)).all()
        playing = t + 1 >= env.cards
        answer = seen[env.length - 1 - t] if playing else torch.zeros_like(seen[0])
        step = env.step({"action": answer})
        assert playing or not step.reward.any()
        total += step.reward
        obs = step.obs
    assert step.terminated.all()
    torch.testing.assert_close(total, torch.ones(10).double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_counting_scores_one(difficulty: str) -> None:
    env = make("popgym-count-recall", 10, difficulty)
    obs, total = env.reset(1)["obs"], torch.zeros(10).double()
    counts, rows = torch.zeros(10, 13).long(), torch.arange(10)
    for _ in range(env.length):
        counts[rows, obs[:, 0]] += 1
        step = env.step({"action": counts[rows, obs[:, 1]]})
        total += step.reward
        obs = step.obs["obs"]
    assert step.terminated.all()
    torch.testing.assert_close(total, torch.ones(10).double(), rtol=1e-5, atol=0)


def test_higher_and_lower_have_opposite_rewards() -> None:
    one, other = make("popgym-higher-lower", 100), make("popgym-higher-lower", 100)
    ranks = one.reset(1)["obs"]
    other.reset(1)
    for _ in range(one.length):
        higher = one.step({"action": torch.zeros(100).long()})
        lower = other.step({"action": torch.ones(100).long()})
        assert torch.equal(higher.reward, -lower.reward)
        wanted = (higher.final_obs["obs"] - ranks).sign() / one.cards
        torch.testing.assert_close(higher.reward, wanted)
        ranks = higher.obs["obs"]


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_knowing_the_board_finds_all_pairs_and_ends_the_game(difficulty: str) -> None:
    env = make("popgym-concentration", 30, difficulty)
    env.reset(1)
    total = torch.zeros(30).double()
    order = env.state.cards.long().sort(dim=1, stable=True).indices
    for t in range(env.places):
        step = env.step({"action": order[:, t]})
        total += step.reward
        assert step.terminated.all() == (t + 1 == env.places)
        assert not step.truncated.any()
    assert (step.final_obs["obs"] < env.down).all()
    assert (step.obs["obs"] == env.down).all()
    torch.testing.assert_close(total, torch.ones(30).double(), rtol=1e-5, atol=0)


def test_new_games_follow_games_that_end_early() -> None:
    """Every second environment is played well until it ends, repeatedly; the others at random."""
    env = make("popgym-concentration", 40)
    env.reset(1)
    rng = np.random.default_rng(0)
    lucky = torch.arange(40) % 2 == 0
    tables = set()
    for t in range(5 * env.places):
        if t % env.places == 0:
            order = env.state.cards.long().sort(dim=1, stable=True).indices
            tables |= {tuple(row) for row in env.state.cards[lucky].tolist()}
        random = torch.from_numpy(rng.integers(0, env.places, 40))
        step = env.step({"action": torch.where(lucky, order[:, t % env.places], random)})
        assert torch.equal(step.terminated, lucky & ((t + 1) % env.places == 0))
        assert torch.equal(step.truncated, ~lucky & ((t + 1) % env.length == 0))
    assert len(tables) == 5 * 20


def test_names_of_cards() -> None:
    assert [cards.name(card) for card in (0, 1, 2, 3, 4, 51, 52, 36)] == [
        *("A♠", "A♦", "A♣", "A♥", "2♠", "K♥", "A♠", "10♠")
    ]
    deck = torch.arange(104, dtype=torch.uint8)
    assert cards.suit(deck).bincount().tolist() == [26] * 4
    assert cards.rank(deck).bincount().tolist() == [8] * 13


@pytest.mark.parametrize(
    ("name", "seen", "done", "hidden"),
    [
        ("popgym-repeat", "[♠♦♣♥]", "[♠♦♣♥]", "[♠♦♣♥]?"),
        ("popgym-repeat-first", "[♠♦♣♥]", "[♠♦♣♥]", "[♠♦♣♥]"),
        ("popgym-autoencode", "watch [♠♦♣♥](, then play)?|play", "[♠♦♣♥]", "[♠♦♣♥]?"),
        ("popgym-count-recall", "(black|red), how many (black|red)\\?", "\\d+", "\\d+"),
        ("popgym-higher-lower", "[A2-9JQK]|10", "higher|lower", "[A2-9JQK]|10"),
        ("popgym-bandit", "pays|nothing", "arm \\d", "([01]\\.\\d\\d ?){10}"),
        ("popgym-concentration", "([br·]{26}\\n?){2}", "turn over \\d+", "([br]{26}\\n?){2}"),
    ],
)
def test_descriptions(name: str, seen: str, done: str, hidden: str) -> None:
    env = make(name, 3)
    obs, rng = env.reset(7), np.random.default_rng(0)
    limit = env.action_space["action"].n
    right = 0
    for _ in range(120):
        action = {"action": torch.from_numpy(rng.integers(0, limit, 3))}
        words = (env.describe_obs(obs, 1), env.describe_action(action, 1), env.reveal(1))
        for text, pattern in zip(words, (seen, done, hidden), strict=True):
            assert re.fullmatch(pattern, text), text
        step = env.step(action)
        if name in ("popgym-repeat", "popgym-repeat-first", "popgym-autoencode"):
            assert (step.reward[1] > 0) == (words[1] == words[2])
        right += int(step.reward[1] > 0)
        obs = step.obs
    assert right > 0
