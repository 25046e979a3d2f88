"""Faults of environments: each is found and described in one line."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rlmem.envs import checks
from rlmem.envs.checks import check


class Good(gym.Env[Any, Any]):
    """An environment without faults; the others change one thing."""

    observation_space: spaces.Space[Any] = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (3, 3, 1), np.uint8),
            "vector": spaces.Box(-1, 1, (2,)),
            "kind": spaces.Discrete(3, start=1),
        }
    )
    action_space: spaces.Space[Any] = spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self.obs(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.time += 1
        return self.obs(), self.reward(), self.time == 9, False, {}

    def obs(self) -> Any:
        vector = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return {"image": np.full((3, 3, 1), self.time, np.uint8), "vector": vector, "kind": 1}

    def reward(self) -> Any:
        return 0.5


class Masked(Good):
    """Each action is legal every other time."""

    observation_space = spaces.Dict(
        {**Good.observation_space.spaces, "action_mask": spaces.MultiBinary(5)}  # type: ignore[attr-defined]
    )

    def mask(self) -> Any:
        odd = self.time % 2
        return np.array([odd, 1 - odd, 1, odd, odd], np.int8)

    def step(self, action: Any) -> Any:
        mask = self.mask()
        assert mask[action[0]], "not legal"
        assert mask[2 + action[1]], "not legal"
        return super().step(action)

    def obs(self) -> Any:
        return super().obs() | {"action_mask": self.mask()}


class MaskInInfo(Masked):
    observation_space = Good.observation_space

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0], {"action_mask": self.mask()}

    def step(self, action: Any) -> Any:
        *rest, _ = super().step(action)
        return *rest, {"action_mask": self.mask()}

    def obs(self) -> Any:
        return Good.obs(self)


class JointMask(Masked):
    observation_space = spaces.Dict(
        {**Good.observation_space.spaces, "action_mask": spaces.MultiBinary((2, 3))}  # type: ignore[attr-defined]
    )

    def mask(self) -> Any:
        return (np.arange(6).reshape(2, 3) % 2 == self.time % 2).astype(np.int8)

    def step(self, action: Any) -> Any:
        assert self.mask()[tuple(action)], "not legal"
        return Good.step(self, action)


class OddMask(Masked):
    observation_space = spaces.Dict(
        {**Good.observation_space.spaces, "action_mask": spaces.MultiBinary(4)}  # type: ignore[attr-defined]
    )

    def mask(self) -> Any:
        return np.ones(4, np.int8)

    def step(self, action: Any) -> Any:
        return Good.step(self, action)


class NoAction(Masked):
    def mask(self) -> Any:
        return np.zeros(5, np.int8)

    def step(self, action: Any) -> Any:
        return Good.step(self, action)


class NoSpace(Good):
    observation_space = None  # type: ignore[assignment]


class OddSpace(Good):
    observation_space = spaces.Text(5)


class NoSeed(Good):
    def reset(self) -> Any:
        return super().reset()


class NoInfo(Good):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0]


class OldStep(Good):
    def step(self, action: Any) -> Any:
        obs, reward, over, _, info = super().step(action)
        return obs, reward, over, info


class Crash(Good):
    def step(self, action: Any) -> Any:
        if self.time == 3:
            raise KeyError("boom")
        return super().step(action)


class Outside(Good):
    def obs(self) -> Any:
        found = super().obs()
        found["vector"][1] = 3.5 if self.time == 4 else 0
        return found


class OutsideKind(Good):
    def obs(self) -> Any:
        return super().obs() | {"kind": 4}


class NotANumber(Good):
    def obs(self) -> Any:
        return super().obs() | {"vector": np.array([np.nan, 0], np.float32)}


class Shape(Good):
    def obs(self) -> Any:
        return super().obs() | {"vector": np.zeros(3, np.float32)}


class Missing(Good):
    def obs(self) -> Any:
        return {key: value for key, value in super().obs().items() if key != "kind"}


class Double(Good):
    def obs(self) -> Any:
        return super().obs() | {"vector": np.zeros(2)}


class ArrayReward(Good):
    def reward(self) -> Any:
        return np.ones(1)


class InfiniteReward(Good):
    def reward(self) -> Any:
        return float("inf")


class IntegerFlag(Good):
    def step(self, action: Any) -> Any:
        obs, reward, over, _, info = super().step(action)
        return obs, reward, int(over), False, info


class NoInfoInStep(Good):
    def step(self, action: Any) -> Any:
        return *super().step(action)[:4], None


class Endless(Good):
    def step(self, action: Any) -> Any:
        obs, reward, _, _, info = super().step(action)
        self.time = 1
        return obs, reward, False, False, info


class Unseeded(Good):
    def obs(self) -> Any:
        noise = np.random.default_rng().uniform(-1, 1, 2).astype(np.float32)
        return super().obs() | {"vector": noise}


class Shared(Good):
    steps = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        Shared.steps = 0
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        Shared.steps += 1
        return super().step(action)

    def obs(self) -> Any:
        return super().obs() | {"kind": 1 + Shared.steps % 3}


FAULTS = [
    (OddMask, ["obs.action_mask has 4 entries, and a mask of action has 5, one for each value"]),
    (NoAction, ["the mask allows no action in step 0"]),
    (NoSpace, ["observation_space is NoneType None, not a space of Gymnasium"]),
    (OddSpace, ["space 'obs': Text(1, 5,"]),
    (NoSeed, ["got an unexpected keyword argument 'seed': def reset(self, *, seed=None,"]),
    (NoInfo, ["reset returned a dict: def reset(self, *, seed=None, options=None) must return"]),
    (OldStep, ["step returned a tuple of 4 (the old API of Gym): def step(self, action) must"]),
    (Crash, ["step failed in step 4: KeyError: 'boom'"]),
    (Outside, ["obs.vector[1] is 3.5 in step 4, outside of its space (-1 to 1)"]),
    (OutsideKind, ["obs.kind is 4, not in Discrete(3, start=1) (step 0)"]),
    (NotANumber, ["obs.vector is [nan, 0.0], not a finite float32 (step 0)"]),
    (Shape, ["obs.vector has shape [3], not [2] as in Box(-1.0, 1.0, (2,), float32) (step 0)"]),
    (Missing, ["obs is a dict of image, vector, not a dict of image, kind, vector"]),
    (Double, ["obs.vector is float64, and its space float32 (converted in every step)"]),
    (ArrayReward, ["the reward is an array of shape [1], not a float"]),
    (InfiniteReward, ["the reward is inf in step 1"]),
    (IntegerFlag, ["terminated is int 0, not True or False"]),
    (NoInfoInStep, ["info is NoneType None, not a dict"]),
    (Endless, ["no episode has ended in"]),
    (Unseeded, ["the same seed gives another episode (at the reset): draw all random numbers"]),
    (Shared, ["copies that play in turn disturb each other (in step 2): do they share data"]),
]


@pytest.mark.by_day(2)
@pytest.mark.parametrize(("env", "lines"), FAULTS, ids=lambda case: getattr(case, "__name__", ""))
def test_every_fault_is_one_line(
    env: type[gym.Env[Any, Any]], lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "ENDLESS", 100)
    found = check(env, seconds=0.5)
    assert len(found.faults) == len(lines), found.faults
    for fault, line in zip(found.faults.values(), lines, strict=True):
        assert line in fault
        assert "\n" not in fault


@pytest.mark.parametrize(
    ("env", "mask"),
    [
        (Good, None),
        (Masked, "obs.action_mask"),
        (JointMask, "obs.action_mask"),
        (MaskInInfo, "info['action_mask']"),
    ],
)
def test_good_environments_have_no_faults(env: type[gym.Env[Any, Any]], mask: str | None) -> None:
    found = check(env, seconds=0.5)
    assert found.faults == {}
    assert found.mask == mask
    assert set(found.lengths) == {9}
    assert set(found.returns) == {4.5}
    assert set(found.rewards) == {0.5}
    assert 9 * len(found.lengths) <= found.steps < 9 * len(found.lengths) + 9


def test_an_environment_that_cannot_be_made() -> None:
    def make() -> Any:
        raise RuntimeError("no licence")

    assert check(make).faults == {"make": "RuntimeError: no licence"}
