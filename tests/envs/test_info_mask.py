"""Masks in infos become observations; masks without an action are one line."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlmem import envs
from rlmem.envs.base import Tensors
from rlmem.envs.gym_env import GymVecEnv
from rlmem.envs.mask_check import PERIOD, MaskCheck, mask_check
from rlmem.envs.tensor_env import StateEnv
from rlmem.errors import UsageError
from rlmem.spaces.action_mask import NAME

FORMS: dict[str, tuple[Any, spaces.Space]] = {
    "list": ([1, 0, 1], spaces.Discrete(3, start=4)),
    "bool": (np.array([True, False, True]), spaces.Discrete(3)),
    "joint": (np.array([[1, 0], [0, 1]], np.int8), spaces.MultiDiscrete([2, 2])),
    "tuple": ((np.array([0, 1]), np.array([1, 1, 0])), spaces.MultiDiscrete([2, 3])),
    "dict": ({"a": [1, 1]}, spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(0, 1, (1,))})),
}


class Says(gym.Env[Any, Any]):
    """Gives `mask` in its infos, rolled by the number of steps; episodes of three steps.

    In episode `fault` there is no mask after one step (`missing`), or no legal action (`none`).
    """

    resets = 0

    def __init__(self, form: str, nested: bool = False, fault: str = "") -> None:
        self.mask, self.action_space = FORMS[form]
        self.nested, self.fault = nested, fault
        number = spaces.Box(-np.inf, np.inf, (1,))
        self.observation_space = spaces.Dict({"x": number}) if nested else number

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        type(self).resets += 1
        np.random.rand()  # noqa: NPY002 (an environment may use the global generator)
        self.time = 0
        return self._obs(), {NAME: self.mask, "other": 1}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.time += 1
        ended = self.time == 3
        info = {} if ended else {NAME: self._now()}
        if self.fault == "missing" and self.time == 2:
            info = {}
        return self._obs(), 1.0, ended, False, info

    def _now(self) -> Any:
        if self.fault == "none" and self.time == 2:
            return np.zeros_like(self.mask)
        return self.mask

    def _obs(self) -> Any:
        number = np.array([self.time], np.float32)
        return {"x": number} if self.nested else number


def vector(form: str = "list", count: int = 2, **options: Any) -> GymVecEnv:
    made = {key: options.pop(key) for key in ("nested", "fault") if key in options}
    return GymVecEnv([lambda: Says(form, **made)] * count, **options)


def masks(obs: Tensors) -> dict[str, Any]:
    return {key: leaf[0].tolist() for key, leaf in obs.items() if NAME in key}


@pytest.mark.by_day(3)
@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("form", FORMS)
def test_masks_of_infos_are_leaves_of_the_observations(form: str, vectorization: str) -> None:
    env = vector(form, vectorization=vectorization)
    expected = {
        "list": {"obs.action_mask": [1, 0, 1]},
        "bool": {"obs.action_mask": [1, 0, 1]},
        "joint": {"obs.action_mask": [[1, 0], [0, 1]]},
        "tuple": {"obs.action_mask.0": [0, 1], "obs.action_mask.1": [1, 1, 0]},
        "dict": {"obs.action_mask.a": [1, 1]},
    }[form]
    assert masks(env.reset(0)) == expected
    assert set(env.observation_space) == {"obs.observation", *expected}
    first = env.action_space
    action = {
        key: torch.zeros(2, *space.shape, dtype=_dtype(space)) for key, space in first.items()
    }
    for time in (1, 2, 3):
        step = env.step(action)
        assert masks(step.obs) == expected
        assert step.final_obs["obs.observation"].tolist() == [[time]] * 2
    # Without a mask at the end of an episode there is no legal action.
    assert all(leaf.sum() == 0 for key, leaf in step.final_obs.items() if NAME in key)
    env.close()


def _dtype(space: spaces.Space) -> torch.dtype:
    return torch.float32 if isinstance(space, spaces.Box) else torch.int64


def test_a_mask_beside_the_parts_of_a_dict() -> None:
    assert list(vector(nested=True).observation_space) == ["obs.action_mask", "obs.x"]


def test_the_search_can_be_turned_off_and_is_not_done_without_need() -> None:
    Says.resets = 0
    off = {"info_privileged": False}
    assert list(vector(info_mask=False, **off).observation_space) == ["obs"]
    assert Says.resets == 0
    vector()
    assert Says.resets == 1

    class Continuous(Says):
        resets = 0

        def __init__(self) -> None:
            super().__init__("list")
            self.action_space = spaces.Box(-1, 1, (2,))

    assert list(GymVecEnv([Continuous], **off).observation_space) == ["obs"]
    assert Continuous.resets == 0


def test_the_search_leaves_the_random_generators_as_they_were() -> None:
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.rand()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    vector()
    assert np.random.rand() == expected  # noqa: NPY002


def test_a_lost_mask_is_one_line() -> None:
    env = vector(fault="missing")
    env.reset(0)
    action = {"action": torch.zeros(2, dtype=torch.int64)}
    env.step(action)
    with pytest.raises(UsageError, match="info has no 'action_mask' here"):
        env.step(action)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_mask_without_an_action_is_one_line(vectorization: str) -> None:
    env = vector(fault="none", vectorization=vectorization)
    env.reset(0)
    action = {"action": torch.zeros(2, dtype=torch.int64)}
    env.step(action)
    message = r"^environment 0, step 2: the mask obs\.action_mask allows no action$"
    with pytest.raises(UsageError, match=message):
        env.step(action)
    env.close()
    unchecked = vector(fault="none", check_obs=False)
    unchecked.reset(0)
    for _ in range(3):
        unchecked.step(action)


def test_taxi_of_gymnasium() -> None:
    env = envs.make("gym", id="Taxi-v4", num_envs=3)
    assert set(env.observation_space) == {"obs.observation", "obs.action_mask"}
    obs = env.reset(0)
    taxi = gym.make("Taxi-v4")
    for row in range(3):
        _, info = taxi.reset(seed=row)
        assert obs["obs.action_mask"][row].tolist() == info["action_mask"].tolist()


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_no_action_is_needed_after_the_end_in_a_given_vector_environment(
    mode: AutoresetMode,
) -> None:
    # In the mode NEXT_STEP the agent acts once more, and the environment ignores it.
    made = [lambda: Ends(), lambda: Ends()]
    env = GymVecEnv(SyncVectorEnv(made, autoreset_mode=mode))
    env.reset(0)
    steps = [env.step({"action": torch.ones(2, dtype=torch.int64)}) for _ in range(12)]
    assert sum(int(step.memory_reset.sum()) for step in steps) >= 4


class Ends(gym.Env[Any, Any]):
    """Episodes of three steps; the last observation allows no action."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Dict({"action_mask": spaces.MultiBinary(2), "x": spaces.Discrete(9)})

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return self._obs(), 0.0, self.time == 3, False, {}

    def _obs(self) -> Any:
        return {"action_mask": np.full(2, self.time < 3, np.int8), "x": self.time}


class Locked(StateEnv[torch.Tensor]):
    """Counts its steps; after two steps environment 1 has no legal action."""

    def __init__(self, num_envs: int = 3, device: str = "cpu") -> None:
        space = spaces.Dict({"x": spaces.Discrete(9), "action_mask": spaces.MultiBinary(2)})
        super().__init__(num_envs, space, spaces.Discrete(2), device)

    def initial_state(self, draws: Any) -> torch.Tensor:
        return torch.zeros(draws.size, dtype=torch.int64, device=self.device)

    def transition(self, state: torch.Tensor, action: Tensors) -> Any:
        never = self._flags(False)
        return state + 1, torch.zeros(self.num_envs), never, never

    def observe(self, state: torch.Tensor) -> Tensors:
        mask = torch.ones(self.num_envs, 2, dtype=torch.int64)
        mask[1] = (state[1] != 2).long()
        return {"obs.action_mask": mask, "obs.x": state.clone()}


def test_environments_on_tensors_are_checked_too() -> None:
    env = Locked()
    env.reset(0)
    action = {"action": torch.zeros(3, dtype=torch.int64)}
    env.step(action)
    with pytest.raises(UsageError, match=r"environment 1, step 2: the mask obs\.action_mask"):
        env.step(action)


def test_on_other_devices_the_check_reads_only_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check = mask_check(
        {"obs.x": spaces.Discrete(2), "obs.action_mask": spaces.MultiBinary(2)},
        {"action": spaces.Discrete(2)},
    )
    assert isinstance(check, MaskCheck)
    obs = {"obs.action_mask": torch.ones(3, 2)}
    wrong = {"obs.action_mask": torch.tensor([[1, 0], [0, 0], [0, 0]])}
    monkeypatch.setattr("rlmem.envs.mask_check.AT_ONCE", ())
    check(obs, 0)
    for step in range(1, PERIOD):
        check(wrong if step == 7 else obs, step)
    with pytest.raises(UsageError, match="environment 1, step 7: "):
        check(obs, PERIOD)
    check = MaskCheck(check.mask)
    check(obs, 0)
    check(wrong, 1)
    with pytest.raises(UsageError, match="environment 1, step 1: "):
        check(obs, 0)


def test_a_leaf_of_that_name_that_is_no_mask_is_an_ordinary_observation() -> None:
    spaces_ = {"obs.action_mask": spaces.MultiBinary(5)}
    assert mask_check(spaces_, {"action": spaces.Discrete(2)}) is None
