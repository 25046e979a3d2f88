"""Gymnasium environments go on in the middle of their episodes, which are played again."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from rlmem import envs
from rlmem.envs import episode_history
from rlmem.envs.base import CannotContinue
from rlmem.envs.gym_env import GymVecEnv
from rlmem.envs.meta.packaged import Packaged, Simulator
from rlmem.envs.meta.splits import Ranges, Splits
from tests.envs.test_tensor_state import assert_same, random_actions, saved


class Drift(gym.Env):
    """A random walk of random length; its actions are nested, and its noise may be anybody's."""

    observation_space = spaces.Dict({"x": spaces.Box(-100, 100, (2,), np.float64)})
    action_space = spaces.Dict({"a": spaces.Discrete(3, start=-1), "b": spaces.Box(-1, 1, (2,))})

    def __init__(self, foreign: bool = False) -> None:
        self.foreign = foreign

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x = self.np_random.normal(size=2)
        self.left = int(self.np_random.integers(1, 30))
        return {"x": self.x}, {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        noise = np.random.normal(size=2) if self.foreign else self.np_random.normal(size=2)  # noqa: NPY002
        self.x = self.x + noise + action["a"] * action["b"]
        return {"x": self.x}, float(self.x[0]), self.left == 0, False, {}


def goes_on(make: Any, steps: int = 60) -> None:
    """Saved and loaded twice, the environment continues as the one that is left alone."""
    env = make()
    env.reset(7)
    for before, after in ((1, 9), (25, steps)):
        for action in random_actions(env, before, before):
            env.step(action)
        other = make()
        other.reset(123)
        other.load_state_dict(saved(env.state_dict()))
        for action in random_actions(env, after, 2):
            assert_same(env.step(action), other.step(action))
        env.close()
        env = other
    env.close()


def make_drift(vectorization: str = "sync", foreign: bool = False) -> GymVecEnv:
    return GymVecEnv([lambda: Drift(foreign)] * 3, vectorization)


def test_episodes_go_on() -> None:
    goes_on(make_drift)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gym", {"id": "CartPole-v1", "previous_action": True}),
        ("gym", {"id": "Pendulum-v1", "max_episode_steps": 11}),
        ("masked", {"id": "Acrobot-v1"}),
        ("minigrid-memory", {}),
    ],
)
def test_registered_environments_go_on(name: str, options: dict[str, Any]) -> None:
    if name == "minigrid-memory":
        pytest.importorskip("minigrid")
    goes_on(lambda: envs.make(name, num_envs=3, **options))


def test_processes_go_on_and_so_do_their_episodes_here() -> None:
    one, processes, other = make_drift(), make_drift("async"), make_drift()
    one.reset(3)
    for action in random_actions(one, 40, 0):
        one.step(action)
    processes.load_state_dict(saved(one.state_dict()))
    for action in random_actions(one, 40, 1):
        assert_same(one.step(action), processes.step(action))
    other.load_state_dict(saved(processes.state_dict()))
    for action in random_actions(one, 40, 2):
        assert_same(one.step(action), other.step(action))
    processes.close()


class Slide(Simulator):
    """Slides by a hidden speed, the parameter of its task."""

    observation_space = spaces.Box(-1e3, 1e3, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def set_task(self, task: dict[str, float], draws: Any) -> None:
        self.speed = task["speed"]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        gym.Env.reset(self, seed=seed)
        self.x, self.t = self.np_random.normal(size=1).astype(np.float32), 0
        return self.x, {}

    def step(self, action: Any) -> Any:
        self.t += 1
        self.x = (self.x + self.speed * action).astype(np.float32)
        return self.x, float(self.speed), False, self.t == 4, {}


def test_trials_in_simulators_go_on() -> None:
    splits = Splits({"speed": Ranges(((0.0, 1.0),))}, {"speed": Ranges(((2.0, 3.0),))})
    goes_on(lambda: Packaged(Slide, splits, "train", 3, 4, "sync", True, "cpu"))


def test_another_randomness_is_noticed() -> None:
    np.random.seed(0)  # noqa: NPY002
    env = make_drift(foreign=True)
    env.reset(7)
    for action in random_actions(env, 12, 0):
        env.step(action)
    with pytest.raises(CannotContinue, match=r"environment \d did not repeat its episode"):
        make_drift(foreign=True).load_state_dict(saved(env.state_dict()))


def test_episodes_that_cannot_be_repeated_are_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_drift().state_dict() is None
    given = GymVecEnv(SyncVectorEnv([Drift] * 2, autoreset_mode="SameStep"))
    given.reset(0)
    assert given.state_dict() is None
    monkeypatch.setattr(episode_history, "MAX_STEPS", 5)
    long = GymVecEnv([lambda: gym.make("MountainCar-v0")])
    long.reset(0)
    for number in range(7):
        assert (long.state_dict() is None) == (number > 5)
        long.step({"action": torch.ones(1, dtype=torch.int64)})


def test_other_environments_are_refused() -> None:
    env = make_drift()
    env.reset(0)
    state = saved(env.state_dict())
    with pytest.raises(CannotContinue, match="the environments are others"):
        GymVecEnv([Drift] * 2).load_state_dict(state)
