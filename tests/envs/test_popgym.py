"""The backend `package` for all 42 tasks of POPGym, and names and options."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import popgym.envs
import pytest
import torch
from gymnasium import spaces
from popgym.wrappers import Antialias, PreviousAction

from rlmem import envs
from rlmem.envs.base import Tensors, VecEnv
from rlmem.envs.popgym.task import DIFFICULTIES, FAMILIES
from rlmem.errors import UsageError

envs.names()  # fills FAMILIES
TASKS = [(name, difficulty) for name in FAMILIES for difficulty in DIFFICULTIES]
SEEDS = [7, 2**31 - 1, 40]


def original(name: str, difficulty: str) -> gym.Env:
    return getattr(popgym.envs, FAMILIES[name] + difficulty.capitalize())()


def assert_obs(obs: Tensors, row: int, sample: Any) -> None:
    """`obs` equals, in one row, a sample of POPGym's wrappers: (*obs, previous action, start)."""
    parts = len(sample) - 2
    names = ["obs"] if parts == 1 else [f"obs.{i}" for i in range(parts)]
    names += ["previous_action", "start"]
    expected = dict(zip(names, sample, strict=True))
    assert obs.keys() == expected.keys()
    for key, value in expected.items():
        kind = np.float32 if np.asarray(value).dtype.kind == "f" else np.int64
        np.testing.assert_array_equal(obs[key][row].numpy(), np.asarray(value, kind), strict=True)


def assert_in_spaces(env: VecEnv, obs: Tensors) -> None:
    for key, space in env.observation_space.items():
        for row in obs[key].numpy():
            assert space.contains(row.item() if isinstance(space, spaces.Discrete) else row), key


def sample_action(env: VecEnv) -> torch.Tensor:
    space = env.action_space["action"]
    return torch.as_tensor(np.stack([space.sample() for _ in range(env.num_envs)]))


@pytest.mark.by_day(3)
@pytest.mark.parametrize(("name", "difficulty"), TASKS)
def test_a_task_equals_that_of_the_package(name: str, difficulty: str) -> None:
    options = {"difficulty": difficulty, "previous_action": True, "backend": "package"}
    env = envs.make(name, num_envs=len(SEEDS), **options)
    alone = [Antialias(PreviousAction(original(name, difficulty))) for _ in SEEDS]
    obs = env.reset(SEEDS)
    for i, seed in enumerate(SEEDS):
        assert_obs(obs, i, alone[i].reset(seed=seed)[0])
    env.action_space["action"].seed(1)
    episodes = [0] * len(SEEDS)
    while min(episodes) < 1:
        action = sample_action(env)
        step = env.step({"action": action})
        for i, single in enumerate(alone):
            sample, reward, terminated, truncated, _ = single.step(action[i].numpy())
            assert step.reward[i] == np.float32(reward)
            assert step.terminated[i] == terminated
            assert step.truncated[i] == truncated
            assert_obs(step.final_obs, i, sample)
            if terminated or truncated:
                episodes[i] += 1
                sample, _ = single.reset()
            assert_obs(step.obs, i, sample)
        assert_in_spaces(env, step.obs)
        assert_in_spaces(env, step.final_obs)


def test_all_42_tasks_of_the_package_have_a_name() -> None:
    mine = {FAMILIES[name] + difficulty.capitalize() for name, difficulty in TASKS}
    theirs = {env.__name__ for env in popgym.envs.ALL if "Labyrinth" not in env.__name__}
    assert mine == theirs
    assert len(TASKS) == len(mine) == 42
    assert set(FAMILIES) == {name for name in envs.names() if name.startswith("popgym-")}


def test_the_default_difficulty_is_easy() -> None:
    assert envs.make("popgym-bandit", num_envs=1).action_space["action"].n == 10
    assert envs.make("popgym-bandit", num_envs=1, difficulty="hard").action_space["action"].n == 30


def test_spaces_of_the_four_kinds_in_popgym() -> None:
    def obs_spaces(name: str) -> envs.Spaces:
        return envs.make(name, num_envs=1, previous_action=False).observation_space

    assert obs_spaces("popgym-repeat") == {"obs": spaces.Discrete(4)}
    assert obs_spaces("popgym-count-recall") == {"obs": spaces.MultiDiscrete([2, 2])}
    assert obs_spaces("popgym-autoencode") == {
        "obs.0": spaces.Discrete(2),
        "obs.1": spaces.Discrete(4),
    }
    assert obs_spaces("popgym-position-only-pendulum") == {"obs": spaces.Box(-1.0, 1.0, (2,))}
    mines = envs.make("popgym-minesweeper", num_envs=1)
    assert mines.action_space == {"action": spaces.MultiDiscrete([4, 4])}
    assert mines.observation_space["previous_action"] == spaces.MultiDiscrete([4, 4])


def test_observations_without_the_previous_action() -> None:
    plain = envs.make("popgym-repeat", num_envs=2, previous_action=False)
    full = envs.make("popgym-repeat", num_envs=2, previous_action=True)
    assert list(plain.reset(3)) == ["obs"]
    full.reset(3)
    for _ in range(60):
        action = {"action": torch.randint(0, 4, (2,))}
        a, b = plain.step(action), full.step(action)
        assert torch.equal(a.obs["obs"], b.obs["obs"])
        assert torch.equal(a.reward, b.reward)


@pytest.mark.parametrize("name", ["popgym-autoencode", "popgym-minesweeper"])
def test_async_equals_sync(name: str) -> None:
    here = envs.make(name, num_envs=2, backend="package")
    there = envs.make(name, num_envs=2, backend="package", vectorization="async")
    torch.testing.assert_close(there.reset(5), here.reset(5), rtol=0, atol=0)
    for _ in range(120):
        action = {"action": sample_action(here)}
        a, b = here.step(action), there.step(action)
        torch.testing.assert_close(b._asdict(), a._asdict(), rtol=0, atol=0)
    there.close()


def test_perfect_memory_scores_one_on_repeat_previous() -> None:
    env = envs.make("popgym-repeat", num_envs=4)
    cards = [env.reset(0)["obs"]]
    total = torch.zeros(4)
    for _ in range(51):
        step = env.step({"action": cards[max(len(cards) - 4, 0)]})
        cards.append(step.obs["obs"])
        total += step.reward
    assert step.terminated.all()
    torch.testing.assert_close(total, torch.ones(4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"difficulty": "impossible"}, "unknown difficulty 'impossible'.*easy, hard, medium"),
        ({"difficulty": "eazy"}, "did you mean easy"),
        ({"num_envs": -1}, "num_envs must be an integer of at least 1, not -1"),
        (
            {"backend": "package", "vectorization": "threads"},
            "unknown vectorization 'threads'.*async, sync",
        ),
        (
            {"vectorization": "async", "backend": "tensor"},
            "vectorization=async needs backend=package",
        ),
        ({"backend": "torch"}, "unknown backend 'torch'.*package, tensor"),
        ({"dificulty": "easy"}, "unknown option .*did you mean difficulty"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        envs.make("popgym-repeat", **{"num_envs": 2, "backend": "package", **options})
    assert "\n" not in str(error.value)


def test_only_tasks_that_depend_on_actions_observe_them_by_default() -> None:
    shown = {
        name: "previous_action" in envs.make(name, num_envs=1).observation_space
        for name in envs.names()
        if name.startswith("popgym-")
    }
    guessing = ("autoencode", "count-recall", "higher-lower", "repeat-first", "repeat")
    assert {name for name, seen in shown.items() if not seen} == {f"popgym-{n}" for n in guessing}
