"""MiniGrid-Memory: equal to the package's task; a missing package is named."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from rlmem import envs
from rlmem.errors import UsageError


@pytest.fixture
def minigrid() -> Any:
    return pytest.importorskip("minigrid", reason="needs the extra minigrid")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minigrid", None)
    with pytest.raises(UsageError, match=r"needs minigrid: pip install 'rlmem\[minigrid\]'"):
        envs.make("minigrid-memory", num_envs=1)


@pytest.mark.usefixtures("minigrid")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, "size must be an odd number of at least 7, not 8"),
        ({"size": 5}, "size must be an odd number of at least 7, not 5"),
        ({"max_steps": 0}, "max_steps must be an integer of at least 1, not 0"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        envs.make("minigrid-memory", num_envs=1, **options)


@pytest.mark.usefixtures("minigrid")
@pytest.mark.parametrize(
    ("id", "options"),
    [
        ("MiniGrid-MemoryS7-v0", {}),
        ("MiniGrid-MemoryS13-v0", {"size": 13}),
        ("MiniGrid-MemoryS17Random-v0", {"size": 17, "random_length": True}),
    ],
)
def test_it_equals_the_task_of_the_package(id: str, options: dict[str, Any]) -> None:
    import gymnasium as gym

    original = gym.make(id, disable_env_checker=True)
    env = envs.make("minigrid-memory", num_envs=1, **options)
    sample, _ = original.reset(seed=7)
    obs = env.reset([7])
    original.action_space.seed(1)
    for _ in range(40):
        assert set(obs) == {"obs.image", "obs.direction"}
        np.testing.assert_array_equal(obs["obs.image"][0].numpy(), sample["image"])
        assert int(obs["obs.direction"]) == sample["direction"]
        action = original.action_space.sample()
        sample, reward, terminated, truncated, _ = original.step(action)
        step = env.step({"action": torch.tensor([int(action)])})
        assert float(step.reward) == pytest.approx(float(reward))
        assert (bool(step.terminated), bool(step.truncated)) == (terminated, truncated)
        if terminated or truncated:
            break
        obs = step.obs


@pytest.mark.usefixtures("minigrid")
def test_reaching_the_seen_object_is_rewarded() -> None:
    # Along the hallway, then to the successful side or to the other one.
    for side, pays in (("success_pos", True), ("failure_pos", False)):
        for seed in range(4):
            env: Any = envs.make("minigrid-memory", num_envs=1, size=9, max_steps=100)
            env.reset([seed])
            inner = env.envs.envs[0].unwrapped
            goal = getattr(inner, side)
            turn, forward = (0 if goal[1] < inner.agent_pos[1] else 1), 2
            along = [forward] * (goal[0] - inner.agent_pos[0])
            for action in [*along, turn, forward]:
                step = env.step({"action": torch.tensor([action])})
            assert bool(step.terminated)
            expected = 1 - 0.9 * (len(along) + 2) / 100 if pays else 0.0
            assert float(step.reward) == pytest.approx(expected)


@pytest.mark.usefixtures("minigrid")
def test_max_steps_truncates() -> None:
    env = envs.make("minigrid-memory", num_envs=2, max_steps=3)
    env.reset(0)
    steps = [env.step({"action": torch.tensor([0, 1])}) for _ in range(3)]
    assert [step.truncated.tolist() for step in steps] == [[False] * 2] * 2 + [[True] * 2]
    assert not any(step.terminated.any() for step in steps)
