"""T-mazes: observations and rewards by hand, and the bound of reactive play."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from rlmem import envs
from rlmem.envs.base import Tensors
from rlmem.envs.meta.reference import references
from tests.envs.strategies import play

RIGHT, UP, LEFT, DOWN = range(4)


@pytest.mark.parametrize("name", ["tmaze-passive", "tmaze-active"])
def test_reactive_play_gets_at_most_one_half(name: str) -> None:
    # Every function from observations to actions, for both goals.
    kinds = [(0.0, 0.0), (0.0, 1.0), (0.0, -1.0), (1.0, 0.0), (1.0, 1.0), (1.0, -1.0)]
    tables = torch.tensor(list(itertools.product(range(4), repeat=len(kinds))))
    env: Any = envs.make(name, num_envs=2 * len(tables), corridor_length=3)
    env.reset(0)
    goals = {goal: seed for seed, goal in enumerate(env.state.goal[:20].tolist())}
    seeds = [goals[-1]] * len(tables) + [goals[1]] * len(tables)
    codes = {kind: code for code, kind in enumerate(kinds)}

    def react(seen: list[Tensors]) -> Tensor:
        code = torch.tensor([codes[tuple(row)] for row in seen[-1]["obs"].tolist()])
        return tables.repeat(2, 1).gather(1, code[:, None])[:, 0]

    total = play(env, react, seeds)
    means = total.view(2, -1).mean(0)
    assert means.max() == pytest.approx(0.5)


@pytest.mark.parametrize("options", [{}, {"penalty": 0.0}, {"corridor_length": 3}], ids=str)
@pytest.mark.parametrize("name", ["tmaze-passive", "tmaze-active"])
def test_the_oracle_reaches_the_goal(name: str, options: dict[str, Any]) -> None:
    env: Any = envs.make(name, num_envs=8, **options)
    player = references(env)["oracle"]
    start = torch.zeros(8, dtype=torch.bool)
    total = play(env, lambda seen: player.act(seen[-1], (), start).action["action"])
    torch.testing.assert_close(total, torch.ones(8))


def test_without_penalty_only_the_goal_is_rewarded() -> None:
    env: Any = envs.make("tmaze-passive", num_envs=8, corridor_length=1500, penalty=0.0)
    env.reset(0)
    steps = [env.step(env.best_action()) for _ in range(1501)]
    assert not any(step.reward.any() for step in steps[:-1])
    assert (steps[-1].reward == 1).all()
    assert steps[-1].terminated.all()
    # The corridor looks the same everywhere.
    assert not any(step.obs["obs"].any() for step in steps[:1499])
    assert steps[1499].obs["obs"].tolist() == [[1.0, 0.0]] * 8


def goal_up(name: str, **options: Any) -> tuple[Any, Tensors]:
    """A T-maze with the goal up, and its first observation."""
    env = envs.make(name, num_envs=1, **options)
    for seed in range(20):
        obs = env.reset(seed)
        if env.state.goal == 1:
            return env, obs
    raise AssertionError("twenty goals on one side")


@pytest.mark.parametrize(
    ("options", "moves", "seen", "rewards"),
    [
        (
            {"corridor_length": 2},
            [RIGHT, RIGHT, UP],
            [(0, 1), (0, 0), (1, 0), (1, 1)],
            [0, 0, 1],
        ),
        (
            {"corridor_length": 2},
            [UP, LEFT, RIGHT],
            [(0, 1), (0, 0), (0, 0), (0, 0)],
            [-0.5, -0.5, 0],
        ),
        (
            {"corridor_length": 1, "penalty": -0.1, "goal_reward": 3.0},
            [RIGHT, DOWN],
            [(0, 1), (1, 0), (1, -1)],
            [0, 0],
        ),
        (
            {"corridor_length": 2, "distract_reward": 0.25, "penalty": 0.0},
            [DOWN, RIGHT, LEFT],
            [(0, 1), (0, 0), (0, 0), (0, 0)],
            [0.25, 0, 0],
        ),
        (
            {"corridor_length": 3, "ambiguous_position": False, "add_timestep": True},
            [RIGHT, LEFT, RIGHT, RIGHT],
            [(0, 0, 1, 0), (1, 0, 0, 1), (0, 0, 0, 2), (1, 0, 0, 3), (2, 0, 0, 4)],
            [0, -1 / 3, -1 / 3, 0],
        ),
        (
            {"corridor_length": 2, "ambiguous_position": False, "expose_goal": True},
            [RIGHT, RIGHT, UP],
            [(0, 0, 1), (1, 0, 1), (2, 0, 1), (2, 1, 1)],
            [0, 0, 1],
        ),
    ],
)
def test_the_rules_of_the_passive_t_maze(
    options: dict[str, Any], moves: list[int], seen: list[Any], rewards: list[float]
) -> None:
    _check_walk("tmaze-passive", options, moves, seen, rewards)


@pytest.mark.parametrize(
    ("options", "moves", "seen", "rewards"),
    [
        (
            {"corridor_length": 2},
            [LEFT, RIGHT, RIGHT, RIGHT, UP],
            [(0, 0), (0, 1), (0, 0), (0, 0), (1, 0), (1, 1)],
            [0, 0, 0, 0, 1],
        ),
        (
            # Too late at the junction: it lags from the first step without a move.
            {"corridor_length": 2},
            [LEFT, LEFT, RIGHT, LEFT, RIGHT],
            [(0, 0), (0, 1), (0, 0), (0, 0), (0, 0), (0, 0)],
            [0, -0.5, -0.5, -0.5, 0],
        ),
        (
            # A lucky guess without the cue: there is time left, and there are walls at the goals.
            {"corridor_length": 2},
            [RIGHT, RIGHT, UP, RIGHT, UP],
            [(0, 0), (0, 0), (1, 0), (1, 1), (1, 1), (1, 1)],
            [0, 0, 0, 0, 1],
        ),
        (
            {"corridor_length": 1, "oracle_length": 2, "distract_reward": 0.5},
            [LEFT, LEFT, RIGHT, RIGHT, RIGHT, DOWN],
            [(0, 0), (0, 0), (0, 1), (0, 0), (0, 0), (1, 0), (1, -1)],
            [0, 0.5, 0, 0, 0, 0],
        ),
        (
            {"corridor_length": 1, "ambiguous_position": False, "expose_goal": True},
            [LEFT, RIGHT, RIGHT, UP],
            [(1, 0, 0), (0, 0, 1), (1, 0, 1), (2, 0, 1), (2, 1, 1)],
            [0, 0, 0, 1],
        ),
    ],
)
def test_the_rules_of_the_active_t_maze(
    options: dict[str, Any], moves: list[int], seen: list[Any], rewards: list[float]
) -> None:
    _check_walk("tmaze-active", options, moves, seen, rewards)


def _check_walk(
    name: str, options: dict[str, Any], moves: list[int], seen: list[Any], rewards: list[float]
) -> None:
    env, obs = goal_up(name, **options)
    assert tuple(obs["obs"][0].tolist()) == seen[0]
    steps = [env.step({"action": torch.tensor([move])}) for move in moves]
    assert [tuple(step.final_obs["obs"][0].tolist()) for step in steps] == seen[1:]
    assert [float(step.reward) for step in steps] == pytest.approx(rewards)
    assert [bool(step.terminated) for step in steps] == [False] * (len(moves) - 1) + [True]


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("tmaze-passive", {"corridor_length": 1}, ["oracle: up", "junction"]),
        ("tmaze-active", {"corridor_length": 1}, ["corridor", "junction"]),
        (
            "tmaze-passive",
            {"corridor_length": 2, "ambiguous_position": False, "add_timestep": True},
            ["x=0 y=0 goal up t=0", "x=1 y=0 t=1"],
        ),
    ],
)
def test_descriptions(name: str, options: dict[str, Any], text: list[str]) -> None:
    env, obs = goal_up(name, **options)
    assert env.reveal(0) == f"goal up, x={env.oracle_length} of {env.end}"
    right = {"action": torch.tensor([RIGHT])}
    assert env.describe_action(right, 0) == "→"
    words = [env.describe_obs(obs, 0), env.describe_obs(env.step(right).obs, 0)]
    assert words == text
