"""Endless T-maze: rules by hand, cues and lengths, the optimum and the bound without memory."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from rlmem import envs
from rlmem.errors import UsageError
from tests.envs import distribution_asserts

RIGHT, UP, LEFT, DOWN = range(4)


def make(num_envs: int = 1, **options: Any) -> Any:
    return envs.make("tmaze-endless", num_envs=num_envs, **options)


def act(env: Any, moves: Tensor | int) -> Any:
    return env.step({"action": torch.as_tensor(moves).expand(env.num_envs)})


def best(env: Any) -> Tensor:
    return env.best_action()["action"]


def test_the_rules_by_hand() -> None:
    env = make(corridor_length=2, corridors=2, max_steps=11)
    for seed in range(40):
        obs = env.reset(seed)["obs"][0].tolist()
        goals = [int(env.state.goal)]
        assert obs == [0, goals[0]]
        # Up and down do nothing in the corridor, left at its start, right at the junction. The
        # cue is not shown again.
        moves = [UP, LEFT, RIGHT, LEFT, RIGHT, RIGHT, RIGHT]
        seen = [act(env, move).obs["obs"][0].tolist() for move in moves]
        assert seen == [[0, 0]] * 5 + [[1, 0]] * 2
        step = act(env, UP)
        goals.append(int(env.state.goal))
        assert float(step.reward) == (0.5 if goals[0] == 1 else -0.5)
        assert step.obs["obs"][0].tolist() == [0, goals[1]]
        assert not step.done
        if goals == [1, -1]:
            break
    assert [float(act(env, move).reward) for move in (RIGHT, RIGHT)] == [0, 0]
    step = act(env, DOWN)
    assert (float(step.reward), bool(step.terminated), bool(step.truncated)) == (0.5, True, False)


def test_the_limit_truncates_and_steps_may_cost() -> None:
    env = make(3, corridor_length=3, corridors=None, max_steps=9, penalty=-0.25, goal_reward=2.0)
    env.reset(0)
    steps = [act(env, best(env)) for _ in range(9)]
    rewards = torch.stack([step.reward for step in steps])
    assert rewards.T.tolist() == [[-0.25, -0.25, -0.25, 2.0] * 2 + [-0.25]] * 3
    assert [bool(step.truncated.all()) for step in steps] == [False] * 8 + [True]
    assert not any(step.terminated.any() for step in steps)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 110),
        ({"corridor_length": 1, "corridors": 1}, 2),
        ({"corridor_length": 60, "corridors": 3}, 183),
        ({"corridors": None, "corridor_length": 299}, 1000),
    ],
    ids=str,
)
def test_the_optimum_is_one(options: dict[str, Any], steps: int) -> None:
    env = make(4, **options)
    env.reset(0)
    played = [act(env, best(env)) for _ in range(steps)]
    torch.testing.assert_close(sum(step.reward for step in played), torch.ones(4))
    assert not any(step.done.any() for step in played[:-1])
    assert played[-1].done.all()


def test_play_without_memory_gets_nothing() -> None:
    # Every function from observations to actions, averaged over the cues of both corridors.
    kinds = [(0.0, 0.0), (0.0, 1.0), (0.0, -1.0), (1.0, 0.0)]
    tables = torch.tensor(list(itertools.product(range(4), repeat=len(kinds))))
    env = make(4 * len(tables), corridor_length=2, corridors=2)
    env.reset(0)
    found: dict[tuple[int, int], int] = {}
    for seed in range(60):
        draw = make(1, corridor_length=2, corridors=2)
        draw.reset(seed)
        first = int(draw.state.goal)
        for move in (RIGHT, RIGHT, UP):
            act(draw, move)
        found.setdefault((first, int(draw.state.goal)), seed)
    assert len(found) == 4
    obs = env.reset([seed for seed in found.values() for _ in tables])
    total, over = torch.zeros(env.num_envs), torch.zeros(env.num_envs, dtype=torch.bool)
    codes = {kind: code for code, kind in enumerate(kinds)}
    for _ in range(env.length):
        code = torch.tensor([codes[tuple(row)] for row in obs["obs"].tolist()])
        step = act(env, tables.repeat(4, 1).gather(1, code[:, None])[:, 0])
        total += torch.where(over, 0, step.reward)
        over |= step.done
        obs = step.obs
    assert total.abs().max() == 1
    assert not total.view(4, -1).mean(0).any()


def test_cues_and_lengths_are_uniform_and_independent_of_play() -> None:
    env = make(2000, corridor_length=5, min_length=2, corridors=None, max_steps=60)
    env.reset(0)
    goals, lengths = [env.state.goal], [env.state.length]
    for _ in range(12):
        turns = env.state.x == env.state.length
        act(env, best(env))
        goals.append(torch.where(turns, env.state.goal, 0))
        lengths.append(env.state.length)
    assert set(torch.stack(lengths).unique().tolist()) == {2, 3, 4, 5}
    distribution_asserts.assert_uniform(lengths[0] - 2, 4)
    later = torch.stack(goals[1:])
    distribution_asserts.assert_uniform((later[later != 0] + 1) // 2, 2)
    second = later[(later != 0).long().argmax(0), torch.arange(2000)]
    distribution_asserts.assert_uniform(goals[0] + 1 + (second + 1) // 2, 4)
    # Slower play meets the same corridors.
    other = make(2000, corridor_length=5, min_length=2, corridors=None, max_steps=60)
    other.reset(0)
    for _ in range(12):
        act(other, best(other))
        # Walls.
        act(other, torch.where(other.state.x == other.state.length, RIGHT, UP))
    same = other.state.number == env.state.number
    assert same.all()
    for a, b in zip(env.state[2:4], other.state[2:4], strict=True):
        assert torch.equal(a[same], b[same])


def test_positions_are_visible_without_ambiguity() -> None:
    env = make(corridor_length=4, ambiguous_position=False)
    seen = [env.reset(0)["obs"]] + [act(env, RIGHT).obs["obs"] for _ in range(4)]
    assert [float(obs[0, 2]) for obs in seen] == [0, 0.25, 0.5, 0.75, 1]


def test_descriptions() -> None:
    env = make(corridor_length=2)
    text = env.describe_obs(env.reset(0), 0)
    side = "up" if env.state.goal > 0 else "down"
    assert text == f"cue: {side}"
    assert env.reveal(0) == f"corridor 1, goal {side}, x=0 of 2"
    assert env.describe_obs(act(env, RIGHT).obs, 0) == "corridor"
    assert env.describe_obs(act(env, RIGHT).obs, 0) == "junction"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corridor_length": 0}, "corridor_length must be an integer of at least 1, not 0"),
        ({"min_length": 11}, "min_length=11 is above corridor_length=10"),
        ({"corridors": 0}, "corridors must be an integer of at least 1, not 0"),
        ({"corridors": 1.5}, "corridors must be an integer or null, not 1.5"),
        ({"corridors": None, "max_steps": 10}, "max_steps=10 are too few for a corridor of 11"),
        ({"penalty": 0.1}, "penalty must be at most 0, not 0.1"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(**options)
