"""Observations, rewards and flags that environments must not give, and those that are converted."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rlmem import envs
from rlmem.envs.base import Tensors, Transition
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.gym_env import GymVecEnv
from rlmem.envs.spaces import FlatSpace
from rlmem.envs.tensor_env import LockstepEnv
from rlmem.errors import UsageError
from tests.envs.toys import Gives

THREE, BOX = spaces.MultiDiscrete([4, 4, 4]), spaces.Box(-1.0, 1.0, (3,))
BYTES = spaces.Box(0, 255, (2, 2), np.uint8)
SQUARE = spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [-2, 3]])
PARTS = spaces.Dict(a=spaces.Discrete(3, start=5), b=BOX)
PAIR = spaces.Tuple((BOX, BOX))
WIDE = spaces.Box(np.full(39, -np.inf), np.arange(39.0), dtype=np.float64)
ZEROS = np.zeros(3, np.float32)
NAN, INF = float("nan"), float("inf")

# Space, observation, and the error after "environment 1, step 3: ".
REFUSED: list[tuple[gym.Space, Any, str]] = [
    (THREE, np.array([2, -1, 0]), "obs is [2, -1, 0], not in MultiDiscrete([4 4 4])"),
    (THREE, np.array([2, 4, 0]), "obs is [2, 4, 0], not in MultiDiscrete([4 4 4])"),
    (SQUARE, np.array([[0, 1], [2, 3]]), "obs is [[0, 1], [2, 3]], not in MultiDiscrete([[2 3] "),
    (spaces.Discrete(3), 3, "obs is 3, not in Discrete(3)"),
    (spaces.Discrete(3), -1, "obs is -1, not in Discrete(3)"),
    (spaces.Discrete(3, start=5), 2, "obs is 2, not in Discrete(3, start=5)"),
    (spaces.Discrete(3), 1.5, "obs is 1.5, not in Discrete(3)"),
    (spaces.Discrete(3), NAN, "obs is nan, not in Discrete(3)"),
    (spaces.Discrete(3), np.array([1]), "obs has shape [1], not [] as in Discrete(3)"),
    (spaces.Discrete(3), None, "obs is None, not in Discrete(3)"),
    (spaces.Discrete(3), "one", "obs is 'one', not in Discrete(3)"),
    (spaces.MultiBinary(3), np.array([0, 2, 1]), "obs is [0, 2, 1], not in MultiBinary(3)"),
    (BOX, np.array([0, NAN, 0], np.float32), "obs is [0.0, nan, 0.0], not a finite float32"),
    (BOX, np.array([0, 0, -INF]), "obs is [0.0, 0.0, -inf], not a finite float32"),
    (BOX, np.array([0, 1e300, 0]), "obs is [0.0, inf, 0.0], not a finite float32"),
    (BOX, np.zeros(2), "obs has shape [2], not [3] as in Box(-1.0, 1.0, (3,), float32)"),
    (BOX, np.zeros((3, 1)), "obs has shape [3, 1], not [3] as in Box"),
    (BOX, 0.0, "obs has shape [], not [3] as in Box"),
    (BOX, [0, [1], 2], "obs has parts of different shapes, not in Box"),
    (BYTES, np.full((2, 2), 300), "obs is [[300, 300], [300, 300]], not in Box(0, 255, (2, 2), u"),
    (BYTES, np.full((2, 2), -1), "obs is [[-1, -1], [-1, -1]], not in Box"),
    (BYTES, np.full((2, 2), 0.5), "obs is [[0.5, 0.5], [0.5, 0.5]], not in Box"),
    (spaces.Box(0, 9, (2,), np.int32), np.array([0.5, 1]), "obs is [0.5, 1.0], not in Box"),
    (spaces.Box(0, 9, (2,), np.uint8), np.array([9, 10]), "obs is [9, 10], not in Box(0, 9, (2,)"),
    (spaces.Box(-2, 9, (2,), np.int32), np.array([-3, 1]), "obs is [-3, 1], not in Box(-2, 9,"),
    (spaces.Box(-1.0, 1.0, ()), np.zeros(1), "obs has shape [1], not [] as in Box"),
    (spaces.Box(-1.0, 1.0, (9, 9)), np.where(np.eye(9) > 0, NAN, 0), "obs[0, 0] is nan, not a fin"),
    (WIDE, np.zeros(3), "obs has shape [3], not [39] as in Box(..., (39,), float64)"),
    (PARTS, {"a": 8, "b": ZEROS}, "obs.a is 8, not in Discrete(3, start=5)"),
    (PARTS, {"a": 5, "b": ZEROS + NAN}, "obs.b is [nan, nan, nan], not a finite float32"),
    (PARTS, {"a": 5}, "obs is a dict of a, not a dict of a, b"),
    (PARTS, {"a": 5, "b": ZEROS, "c": 1}, "obs is a dict of a, b, c, not a dict of a, b"),
    (PARTS, (5, ZEROS), "obs is a tuple of 0, 1, not a dict of a, b"),
    (PARTS, 5, "obs is of type int, not a dict of a, b"),
    (PAIR, (ZEROS,), "obs is a tuple of 0, not a tuple of 0, 1"),
    (PAIR, (ZEROS, ZEROS, ZEROS), "obs is a tuple of 0, 1, 2, not a tuple of 0, 1"),
]
# Space, observation, and its tensor.
CONVERTED: list[tuple[gym.Space, Any, Tensor]] = [
    (spaces.Discrete(3), 2.0, torch.tensor(2)),
    (spaces.Discrete(3, start=5), np.float32(6), torch.tensor(1)),
    (spaces.Discrete(2), True, torch.tensor(1)),
    (THREE, [3.0, 0.0, 1.0], torch.tensor([3, 0, 1])),
    (spaces.MultiBinary(2), np.array([True, False]), torch.tensor([1, 0])),
    (BYTES, np.full((2, 2), 255), torch.full((2, 2), 255, dtype=torch.uint8)),
    (BYTES, np.full((2, 2), 7.0), torch.full((2, 2), 7, dtype=torch.uint8)),
    (spaces.Box(0, 9, (2,), np.int32), np.array([3.0, 4.0]), torch.tensor([3.0, 4.0])),
    (BOX, [0, 1, -1], torch.tensor([0.0, 1.0, -1.0])),
    (BOX, np.array([0.1, 0, 0]), torch.tensor([0.1, 0, 0])),
    # Bounds of a Box of floats are not checked, and large numbers are finite.
    (BOX, np.array([9, 1e30, -3e38], np.float32), torch.tensor([9, 1e30, -3e38])),
]


def played(
    space: gym.Space,
    result: tuple[Any, ...],
    at: int = 3,
    vectorization: str = "sync",
    check_obs: bool = True,
) -> Transition:
    """The third step of three environments; the one with index 1 gives `result` at step `at`."""
    good = [np.asarray(leaf.source.sample()) for leaf in FlatSpace("obs", space).leaves]
    make = partial(Gives, space, FlatSpace("obs", space).nest(iter(good)), result, at)
    env = GymVecEnv([make] * 3, vectorization, check_obs=check_obs)
    try:
        env.reset(0)
        for _ in range(3):
            step = env.step({"action": torch.tensor([0, 1, 0])})
        return step
    finally:
        env.close()


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_an_observation_outside_of_its_space_is_refused(case: int) -> None:
    space, obs, message = REFUSED[case]
    for at, where in ((3, "environment 1, step 3: "), (0, "environment 1, step 0 (reset): ")):
        with pytest.raises(UsageError) as error:
            played(space, (obs, 0.0, False, False), at)
        assert str(error.value).startswith(where + message)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 200


@pytest.mark.parametrize("case", range(len(CONVERTED)))
def test_observations_are_converted_if_no_value_changes(case: int) -> None:
    space, obs, expected = CONVERTED[case]
    step = played(space, (obs, 0.0, False, False))
    torch.testing.assert_close(step.obs["obs"][1], expected, rtol=0, atol=0)


REWARDS: list[tuple[Any, float | str]] = [
    (1, 1.0),
    (np.float32(0.5), 0.5),
    (np.array([1.5]), 1.5),
    (np.array([[2]]), 2.0),
    ([2.5], 2.5),
    (True, 1.0),
    (torch.tensor([3.0]), 3.0),
    (NAN, "reward is nan, not a finite float32"),
    (-INF, "reward is -inf, not a finite float32"),
    (1e300, "reward is 1e+300, not a finite float32"),
    (np.zeros(2), "reward has shape [2], not a number"),
    ([], "reward has shape [0], not a number"),
    (None, "reward is None, not a number"),
    ("1", "reward is '1', not a number"),
    (1j, "reward is 1j, not a number"),
]
FLAGS: list[tuple[Any, bool | str]] = [
    (True, True),
    (np.bool_(True), True),
    (1, True),
    (np.array([True]), True),
    (np.array([[0]]), False),
    (np.array([True, False]), "{} has shape [2], not true or false"),
    (None, "{} is None, not true or false"),
    (NAN, "{} is nan, not true or false"),
    (2, "{} is 2, not true or false"),
    ("no", "{} is 'no', not true or false"),
]


def one_result(result: tuple[Any, ...], expected: Any, vectorization: str = "sync") -> Any:
    """The third step, or None if it is the expected error."""
    if not isinstance(expected, str):
        return played(BOX, (ZEROS, *result), vectorization=vectorization)
    with pytest.raises(UsageError, match=re.escape("environment 1, step 3: " + expected)):
        played(BOX, (ZEROS, *result), vectorization=vectorization)
    return None


@pytest.mark.parametrize(("reward", "expected"), REWARDS, ids=str)
def test_rewards_are_finite_numbers(reward: Any, expected: float | str) -> None:
    if step := one_result((reward, False, False), expected):
        assert step.reward.dtype == torch.float32
        assert step.reward.tolist() == [0.0, expected, 0.0]


@pytest.mark.parametrize("name", ["terminated", "truncated"])
@pytest.mark.parametrize(("flag", "expected"), FLAGS, ids=str)
def test_flags_are_true_or_false(flag: Any, expected: bool | str, name: str) -> None:
    expected = expected.format(name) if isinstance(expected, str) else expected
    flags = (flag, False) if name == "terminated" else (False, flag)
    if step := one_result((0.0, *flags), expected):
        assert getattr(step, name).dtype == torch.bool
        assert getattr(step, name).tolist() == [False, expected, False]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ((ZEROS, np.array([1.5]), np.array([False]), np.array([True])), None),
        (
            (np.array([0, 0, NAN]), 0.0, False, False),
            "obs is [0.0, 0.0, nan], not a finite float32",
        ),
        ((np.zeros(1), 0.0, False, False), "obs has shape [1], not [3] as in Box"),
        ((ZEROS, np.zeros(2), False, False), "reward has shape [2], not a number"),
        (
            (ZEROS, 0.0, np.array([True, True]), False),
            "terminated has shape [2], not true or false",
        ),
    ],
)
def test_other_processes_give_the_same(
    result: tuple[Any, ...], expected: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    if expected is None:
        step = played(BOX, result, vectorization="async")
        assert step.reward.tolist() == [0.0, 1.5, 0.0]
        assert step.truncated.tolist() == [False, True, False]
        assert step.terminated.shape == (3,)
    else:
        with pytest.raises(UsageError, match=re.escape("environment 1, step 3: " + expected)):
            played(BOX, result, vectorization="async")
    assert capfd.readouterr().err == ""


def test_other_processes_do_not_round_floats_to_discrete_values() -> None:
    # AsyncVectorEnv alone would give 1 for 1.9.
    with pytest.raises(UsageError, match=r"step 3: obs is 1.9, not in Discrete\(3\)"):
        played(spaces.Discrete(3), (1.9, 0.0, False, False), vectorization="async")
    step = played(spaces.Discrete(3), (2.0, 0.0, False, False), vectorization="async")
    assert step.obs["obs"][1] == 2


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_the_last_observation_of_an_episode_is_checked(vectorization: str) -> None:
    for obs in (np.array([NAN, 0, 0]), np.zeros(2)):
        with pytest.raises(UsageError, match="environment 1, step 3: obs"):
            played(BOX, (obs, 0.0, True, False), vectorization=vectorization)


def test_values_are_checked_with_check_obs_only() -> None:
    step = played(THREE, (np.array([2, 4, 0]), NAN, False, False), check_obs=False)
    assert step.obs["obs"][1].tolist() == [2, 4, 0]
    assert step.reward[1].isnan()
    with pytest.raises(UsageError, match="has shape"):
        played(THREE, (np.zeros(2, int), 0.0, False, False), check_obs=False)


def test_check_obs_is_an_option_of_every_environment() -> None:
    for name in envs.names():
        assert "check_obs" in envs.base.registry.options(name), name


class Spoiled(LockstepEnv[Tensor]):
    """Gives what `spoil` makes of right observations and rewards, from step 2 on."""

    length = 5

    def __init__(self, spoil: Any, check_obs: bool = True) -> None:
        space = spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(-1.0, 1.0, (2,)))
        super().__init__(4, space, spaces.Discrete(2), check_obs=check_obs)
        self.spoil = spoil

    def initial_state(self, draws: RandomDraws) -> Tensor:
        return draws.below(3, 1)[0]

    def transition(self, state: Tensor, t: int, action: Tensors) -> tuple[Tensor, Tensor]:
        return state, self.spoil("reward", torch.zeros(4)) if t == 1 else torch.zeros(4)

    def observe(self, state: Tensor, t: int) -> Tensors:
        obs = {"obs.a": state.clone(), "obs.b": torch.zeros(4, 2)}
        return {key: self.spoil(key, leaf) for key, leaf in obs.items()} if t == 2 else obs


def put(key: str, row: int, value: float) -> Any:
    def spoil(name: str, leaf: Tensor) -> Tensor:
        if name != key:
            return leaf
        leaf = leaf.clone()
        leaf[row] = value
        return leaf

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (put("obs.a", 2, 3), "environment 2, step 2: obs.a is 3, not in Discrete(3)"),
        (put("obs.a", 0, -1), "environment 0, step 2: obs.a is -1, not in Discrete(3)"),
        (put("obs.b", 3, NAN), "environment 3, step 2: obs.b is [nan, nan], not a finite float32"),
        (put("reward", 1, INF), "environment 1, step 2: reward is inf, not a finite float32"),
        (lambda _, leaf: leaf.double(), "obs.a has dtype float64 and shape [4], not dtype int64"),
        (lambda _, leaf: leaf[:3], "obs.a has dtype int64 and shape [3], not dtype int64 and sh"),
    ],
)
def test_environments_on_tensors_are_checked_if_asked(spoil: Any, message: str) -> None:
    for check_obs in (False, True):
        env = Spoiled(spoil, check_obs)
        env.reset(0)
        action = {"action": torch.zeros(4, dtype=torch.int64)}
        env.step(action)
        if not check_obs:
            env.step(action)
            continue
        with pytest.raises(UsageError, match=re.escape(message)):
            env.step(action)


@pytest.mark.parametrize("name", ["copy", "memory-chain", "popgym-battleship", "meta-bandit"])
def test_checks_do_not_change_an_environment_on_tensors(name: str) -> None:
    plain, checked = (envs.make(name, num_envs=5, check_obs=check) for check in (False, True))
    first, again = plain.reset(3), checked.reset(3)
    assert all(torch.equal(first[key], again[key]) for key in first)
    for t in range(40):
        space: Any = plain.action_space["action"]
        space.seed(t)
        drawn = np.stack([np.asarray(space.sample()) for _ in range(5)])
        a, b = (env.step({"action": torch.from_numpy(drawn)}) for env in (plain, checked))
        torch.testing.assert_close(a._asdict(), b._asdict(), rtol=0, atol=0)
