"""Environments with hidden tasks, step by step, checked by hand or against Gymnasium."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.toy_text.frozen_lake import is_valid
from gymnasium.spaces import Discrete
from scipy import stats
from torch import Tensor

from rlmem import envs
from rlmem.envs.base import Transition
from rlmem.envs.meta import frozen_lake
from rlmem.errors import UsageError
from tests.envs import distribution_asserts

STAY, LEFT, RIGHT, UP, DOWN = range(5)


def make(name: str, num_envs: int = 1, **options: Any) -> Any:
    env = envs.make(f"meta-{name}", num_envs=num_envs, **options)
    env.reset(1)
    return env


def give(env: Any, **leaves: Any) -> None:
    """Set the tasks of all environments."""
    task = env.env.task
    for key, value in leaves.items():
        getattr(task, key).copy_(torch.as_tensor(value))


def walk(env: Any, moves: list[Any]) -> list[Transition]:
    space = env.action_space["action"]
    kind = torch.int64 if isinstance(space, Discrete) else torch.float32
    return [env.step({"action": torch.tensor([move], dtype=kind)}) for move in moves]


def results(steps: list[Transition]) -> tuple[list[Any], list[float], list[bool]]:
    """Observations, rewards, and whether a new episode started."""
    return (
        [step.obs["obs"][0].tolist() for step in steps],
        [float(step.reward) for step in steps],
        [bool(step.obs["previous_done"]) for step in steps],
    )


def test_dark_room_earns_at_the_goal_in_every_step() -> None:
    env = make("dark-room", size=3, length=6, heldout_share=0.5)
    give(env, goal=[2, 0])
    steps = walk(env, [RIGHT, RIGHT, UP, UP, STAY, LEFT, DOWN])
    seen, paid, began = results(steps)
    assert seen == [[2, 1], [2, 1], [2, 0], [2, 0], [2, 0], [1, 1], [1, 2]]
    assert paid == [0, 0, 1, 1, 1, 0, 0]
    assert began == [False] * 5 + [True, False]
    assert env.env.reveal(0) == "goal (2, 0)"


def test_walls_of_the_dark_room_block() -> None:
    env = make("dark-room", length=99)
    corners = {LEFT: [0, 4], UP: [0, 0], RIGHT: [8, 0], DOWN: [8, 8]}
    for move, corner in corners.items():
        assert results(walk(env, [move] * 9))[0][-1] == corner


def test_the_dark_room_oracle_takes_a_shortest_path() -> None:
    env = make("dark-room", 100, episodes=1)
    goal = env.env.task.goal.clone()
    total = torch.zeros(100)
    for _ in range(20):
        action = env.env.distribution.best_action((), env.env.task, env.env.state.state)
        total += env.step(action).reward
    far = (goal - 4).abs().sum(1)
    assert torch.equal(total, 20.0 - far.clamp(min=1) + 1)


def test_key_and_door_earn_once_and_the_door_only_with_the_key() -> None:
    env = make("dark-key-door", size=3, heldout_share=0.5, length=9, episodes=2)
    give(env, key=[1, 0], door=[1, 2])
    env.env.state.state.position.copy_(torch.tensor([[0, 2]]))
    steps = walk(env, [RIGHT, UP, UP, UP, STAY, DOWN, DOWN, STAY])
    _, paid, began = results(steps)
    # Passing the door without the key earns nothing; the key earns only once.
    assert paid == [0, 0, 1, 0, 0, 0, 1, 0]
    assert began == [False] * 6 + [True, False]
    # The key is there again in the next episode, which ends after 9 steps.
    env.env.state.state.position.copy_(torch.tensor([[1, 0]]))
    steps = walk(env, [STAY] * 8)
    assert results(steps)[1] == [1] + [0] * 7
    assert [bool(step.memory_reset) for step in steps] == [False] * 7 + [True]
    assert bool(steps[-1].terminated)


def test_key_and_door_in_one_cell_take_one_step_each() -> None:
    env = make("dark-key-door", size=3, heldout_share=0.5)
    give(env, key=[1, 1], door=[1, 1])
    env.env.state.state.position.copy_(torch.tensor([[0, 1]]))
    assert results(walk(env, [RIGHT, STAY]))[1] == [1, 1]


def test_episodes_of_key_and_door_start_in_random_cells() -> None:
    env = make("dark-key-door", 3000, size=9, length=1, episodes=3)
    first = env.reset(1)["obs"]
    second = env.step({"action": torch.zeros(3000, dtype=torch.int64)}).obs["obs"]
    for position in (first, second):
        distribution_asserts.assert_uniform(position[:, 0] * 9 + position[:, 1], 81)
    distribution_asserts.assert_uniform(first[:, 0] * 9 + second[:, 0], 81)
    assert torch.equal(env.reset(1)["obs"], first)


def gymnasium_lake(holes: Tensor, size: int, slippery: bool) -> Any:
    tiles = np.array(["F", "H"])[holes.numpy()]
    tiles[0], tiles[-1] = "S", "G"
    rows = ["".join(tiles[i : i + size]) for i in range(0, size * size, size)]
    return gym.make("FrozenLake-v1", desc=rows, is_slippery=slippery).unwrapped


@pytest.mark.parametrize(("size", "slippery"), [(4, False), (4, True), (5, True)])
def test_frozen_lake_moves_as_in_gymnasium(size: int, slippery: bool) -> None:
    """The next cells of every cell and action, with their frequencies, on some maps."""
    sizes = {"size": size, "maps": 50, "heldout_maps": 10}
    for number in range(4):
        env = make("frozen-lake", 400, slippery=slippery, length=10**6, **sizes)
        holes = env.env.task.holes[number].clone()
        give(env, holes=holes)
        known = gymnasium_lake(holes, size, slippery).P
        for cell in range(size * size):
            if known[cell][0][0][3]:  # A final cell.
                continue
            for action in range(4):
                env.env.state.state.cell.fill_(cell)
                task, state = env.env.task, env.env.state.state
                move = {"action": torch.full((400,), action)}
                after, reward, terminated, truncated = env.env.distribution.transition(
                    task, state, move, env.env.random_steps
                )
                chances = np.zeros(size * size)
                for chance, to, pays, ends in known[cell][action]:
                    chances[to] += chance
                    there = after.cell == to
                    assert (reward[there] == pays).all()
                    assert (terminated[there] == ends).all()
                if slippery:
                    distribution_asserts.assert_frequencies(after.cell, chances)
                assert chances[after.cell.numpy()].all()
                assert not truncated.any()


def test_frozen_lake_truncates_after_its_length_unless_crossed() -> None:
    env = make("frozen-lake", 2, length=4, size=3, maps=2, heldout_maps=2, episodes=1)
    give(env, holes=[[0] * 9, [0] * 9])
    # One agent stands still, the other one crosses in the last step.
    moves = torch.tensor([[0, 2], [0, 2], [0, 1], [0, 1]])
    steps = [env.step({"action": move}) for move in moves]
    assert [step.truncated.tolist() for step in steps] == [[False] * 2] * 3 + [[True, False]]
    assert [step.terminated.tolist() for step in steps] == [[False] * 2] * 3 + [[False, True]]
    assert steps[-1].reward.tolist() == [0, 1]


def test_crossable_maps_are_those_of_gymnasium() -> None:
    bits = torch.arange(512)[:, None].bitwise_right_shift(torch.arange(9)) & 1
    bits = bits[(bits[:, 0] == 0) & (bits[:, 8] == 0)]
    found = frozen_lake.crossable(bits, 3)
    for holes, crossable in zip(bits, found, strict=True):
        tiles = gymnasium_lake(holes, 3, False).desc.astype(str).tolist()
        assert bool(crossable) == is_valid(tiles, 3)


def test_maps_are_distinct_and_frozen_with_the_given_probability() -> None:
    maps = frozen_lake.random_maps(6, 0.8, 2000, 0)
    assert len(maps.unique(dim=0)) == 2000
    assert frozen_lake.crossable(maps, 6).all()
    assert torch.equal(frozen_lake.random_maps(6, 0.8, 1000, 0), maps[:1000])
    # Cells that hardly affect whether the map can be crossed.
    assert 0.75 < 1 - maps[:, [14, 15, 20, 21]].double().mean() < 0.85
    with pytest.raises(UsageError, match="found 3 different maps of size 2"):
        frozen_lake.random_maps(2, 0.5, 100, 0)


def test_the_oracle_of_slippery_lakes_is_optimal() -> None:
    """Compares with undiscounted value iteration on Gymnasium's own table."""
    env = make("frozen-lake", 2000, slippery=True, length=10, episodes=1)
    holes = env.env.task.holes[0].clone()
    give(env, holes=holes)
    known = gymnasium_lake(holes, 4, True).P
    value = np.zeros(16)
    for _ in range(10):
        value = np.array(
            [
                max(
                    sum(p * (r + (not end) * value[to]) for p, to, r, end in known[s][a])
                    for a in range(4)
                )
                for s in range(16)
            ]
        )
    tasks = env.env.distribution
    plan = tasks.plan(env.env.task)
    total, over = torch.zeros(2000), torch.zeros(2000, dtype=torch.bool)
    for _ in range(10):
        step = env.step(tasks.best_action(plan, env.env.task, env.env.state.state))
        total += torch.where(over, 0, step.reward)
        over |= step.memory_reset
    assert over.all()
    assert abs(float(total.mean()) - value[0]) < 4 * (value[0] * (1 - value[0]) / 2000) ** 0.5


def test_tables_are_dirichlet_and_normal() -> None:
    for concentration in (1, 3):
        env = make("tabular-mdp", 300, concentration=[concentration], heldout_concentration=[2])
        table, reward = env.env.task.transition, env.env.task.reward
        torch.testing.assert_close(table.sum(-1), torch.ones(300, 10, 5))
        marginal = stats.beta(concentration, 9 * concentration)
        distribution_asserts.assert_follows(
            torch.as_tensor(marginal.cdf(table[:, :, :, 0].numpy())), "uniform"
        )
        distribution_asserts.assert_follows(reward - 1, "norm")


def test_transitions_and_rewards_follow_the_tables() -> None:
    env = make("tabular-mdp", 20_000, states=4, actions=2, length=10**6)
    first = env.env.task
    give(env, transition=first.transition[:1].clone(), reward=first.reward[:1].clone())
    place = env.env.state.state.place
    before = torch.arange(20_000) % 4
    place.copy_(before)
    action = torch.arange(20_000) // 4 % 2
    step = env.step({"action": action})
    for s in range(4):
        for a in range(2):
            chosen = (before == s) & (action == a)
            distribution_asserts.assert_frequencies(
                step.obs["obs"][chosen], first.transition[0, s, a].numpy()
            )
            distribution_asserts.assert_follows(step.reward[chosen] - first.reward[0, s, a], "norm")
            # Transitions and reward noise are independent.
            high = (step.reward - first.reward[0, s, a] > 0)[chosen].long()
            pairs = torch.bincount(2 * step.obs["obs"][chosen] + high, minlength=8).view(4, 2)
            assert stats.chi2_contingency(pairs.numpy()).pvalue > distribution_asserts.LEAST


def test_point_robot_moves_and_earns_minus_its_distance() -> None:
    env = make("point-robot", length=4)
    give(env, goal=[0.0, 1.0])
    seen, paid, began = results(walk(env, [[1.0, 0.0], [-1.0, 1.0], [-9.0, 0.5], [0.0, 0.0]]))
    where = [[0.1, 0.0], [0.0, 0.1], [-0.1, 0.15]]
    np.testing.assert_allclose(seen, [*where, [0.0, 0.0]], atol=1e-6)
    far = [-np.hypot(x, y - 1) for x, y in where]
    np.testing.assert_allclose(paid, [*far, far[-1]], atol=1e-6)
    assert began == [False, False, False, True]


def test_goals_are_on_a_half_circle_in_the_angles_of_the_split() -> None:
    for split in ("train", "heldout"):
        goal = make("point-robot", 5000, split=split).env.task.goal
        torch.testing.assert_close(goal.norm(dim=1), torch.ones(5000))
        half_turns = np.arctan2(*goal.T.flip(0).numpy()) / np.pi
        counts, _ = np.histogram(half_turns, bins=10, range=(0, 1))
        held = np.array([0, 0, 1, 0, 0, 0, 0, 1, 0, 0])
        possible = held if split == "heldout" else 1 - held
        assert counts.sum() == 5000
        assert not counts[possible == 0].any()
        assert stats.chisquare(counts[possible == 1]).pvalue > distribution_asserts.LEAST


def test_wind_moves_the_point_and_sparse_rewards_are_near_the_goal() -> None:
    env = make("wind", length=9)
    give(env, wind=[0.0, 0.05])
    seen, paid, _ = results(walk(env, [[0.0, 1.0]] * 6 + [[1.0, -0.5]] * 2))
    heights = [0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 0.9, 0.9]
    across = [0.0] * 6 + [0.1, 0.2]
    np.testing.assert_allclose(seen, np.stack([across, heights], 1), atol=1e-6)
    assert paid[:5] == [0] * 5
    # The last position is more than 0.2 away.
    np.testing.assert_allclose(paid[5:], [0.9, 1 - np.hypot(0.1, 0.1), 0], atol=1e-6)


def test_winds_have_the_directions_and_strengths_of_the_split() -> None:
    task = make("wind", 2000, split="heldout-strength").env.task
    torch.testing.assert_close(task.wind.norm(dim=1), task.strength)
    assert task.strength.min() >= 0.06
    distribution_asserts.assert_follows((task.strength - 0.06) / 0.02, "uniform")
    angle = np.arctan2(*task.wind.T.flip(0).numpy()) / np.pi % 2
    np.testing.assert_allclose(angle, task.direction.numpy(), atol=1e-5)
    distribution_asserts.assert_independent(
        torch.where(task.direction < 0.7, task.direction, task.direction - 0.3) / 1.4,
        (task.strength - 0.06) / 0.02,
    )


@pytest.mark.parametrize("name", ["point-robot", "wind"])
def test_the_oracle_moves_straight_to_the_goal_and_stays(name: str) -> None:
    env = make(name, 50, sparse=False, episodes=1)
    tasks, before = env.env.distribution, None
    goal = tasks.goal(env.env.task).clone()
    for _ in range(tasks.length - 1):
        step = env.step(tasks.best_action((), env.env.task, env.env.state.state))
        far = (step.obs["obs"] - goal).norm(dim=1)
        # The distance never increases, and is 0 in the end.
        assert before is None or (far <= before + 1e-5).all()
        before = far
    assert far.max() < 1e-4


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dark-room", {"size": 0}, "size must be an integer of at least 1"),
        ("dark-room", {"heldout_share": 0.0}, "leaves one side empty"),
        ("dark-key-door", {"length": 0}, "length must be"),
        ("frozen-lake", {"size": 1}, "size must be an integer of at least 2"),
        ("frozen-lake", {"size": 2}, "found 3 different maps of size 2"),
        ("tabular-mdp", {"concentration": [3]}, "overlaps with training's in concentration"),
        ("tabular-mdp", {"states": 0}, "states must be"),
        ("point-robot", {"angle": [[0.1, 0.4]]}, "'heldout' overlaps with training's in angle"),
        ("wind", {"speed": 0.0}, "speed must be above 0"),
    ],
)
def test_invalid_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(name, **options)
