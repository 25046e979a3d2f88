"""Spaces to tensors and back, for every kind of space; errors."""

from __future__ import annotations

import re
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array

from rlmem.envs.gym_env import GymVecEnv
from rlmem.envs.spaces import ActionSpace, FlatSpace
from rlmem.errors import UsageError
from tests.envs.toys import EVERY_KIND, Echo, Shows

IMAGES = spaces.Dict(
    {
        "image": spaces.Box(0, 255, (4, 5, 3), dtype=np.uint8),
        "count": spaces.Box(-3, 1000, (2,), dtype=np.int32),
        "flag": spaces.Box(0, 1, (2,), dtype=np.bool_),
    }
)
UNSUPPORTED = [
    spaces.Text(5),
    spaces.Graph(spaces.Discrete(2), None),
    spaces.Sequence(spaces.Discrete(2)),
    spaces.OneOf([spaces.Discrete(2), spaces.Discrete(3)]),
]


def test_names_and_spaces_of_leaves() -> None:
    found = FlatSpace("action", EVERY_KIND).spaces
    assert found == {
        "action.below": spaces.Discrete(5),
        "action.box": spaces.Box(-2.0, 3.0, (2, 3)),
        "action.die": spaces.Discrete(6),
        "action.double": spaces.Box(-0.1, 0.1, (4,)),
        "action.nest.0": spaces.MultiDiscrete([2, 3, 4, 5]),
        "action.nest.1.bit": spaces.MultiBinary(1),
        "action.nest.1.bits": spaces.MultiBinary(6),
        "action.nest.2.0": spaces.Discrete(2),
        "action.scalar": spaces.Box(0.0, 1.0, ()),
        "action.unbounded": spaces.Box(-np.inf, np.inf, (1,)),
    }


def test_a_plain_space_is_one_leaf() -> None:
    assert FlatSpace("obs", spaces.Discrete(3)).spaces == {"obs": spaces.Discrete(3)}
    pair = spaces.Tuple((spaces.Discrete(2), spaces.MultiBinary(2)))
    assert list(FlatSpace("obs", pair).spaces) == ["obs.0", "obs.1"]


def test_values_by_hand() -> None:
    space = spaces.Tuple(
        (
            spaces.Discrete(6, start=1),
            spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [-2, 3]]),
            spaces.MultiBinary([2, 2]),
            spaces.Box(-1, 1, (2,), dtype=np.float64),
        )
    )
    samples = [
        (1, np.array([[0, 1], [-2, 3]]), np.array([[0, 1], [1, 0]]), np.array([0.25, -1.0])),
        (6, np.array([[1, 3], [1, 7]]), np.array([[1, 1], [0, 0]]), np.array([1.0, 0.5])),
    ]
    flat = ActionSpace("action", space)
    tensors = flat.stack(samples)
    expected = {
        "action.0": torch.tensor([0, 5]),
        "action.1": torch.tensor([[0, 0, 0, 0], [1, 2, 3, 4]]),
        "action.2": torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0]]),
        "action.3": torch.tensor([[0.25, -1.0], [1.0, 0.5]]),
    }
    assert tensors.keys() == expected.keys()
    for key, leaf in expected.items():
        torch.testing.assert_close(tensors[key], leaf, rtol=0, atol=0)
    back = flat.write(tensors, 2)
    for i, sample in enumerate(samples):
        for part, original in zip(back, sample, strict=True):
            np.testing.assert_array_equal(part[i], original)


def test_boxes_are_uint8_or_float32() -> None:
    flat = FlatSpace("obs", IMAGES)
    sample = {
        "image": np.full((4, 5, 3), 200, np.uint8),
        "count": np.array([-3, 999], np.int32),
        "flag": np.array([True, False]),
    }
    tensors = flat.stack([sample, sample])
    assert tensors["obs.image"].dtype == torch.uint8
    assert (tensors["obs.image"] == 200).all()
    assert tensors["obs.count"].tolist() == [[-3.0, 999.0]] * 2
    assert tensors["obs.flag"].tolist() == [[1.0, 0.0]] * 2
    assert tensors["obs.count"].dtype == tensors["obs.flag"].dtype == torch.float32


@pytest.mark.parametrize("space", [EVERY_KIND, IMAGES, *EVERY_KIND.values()], ids=str)
def test_batches_equal_those_of_gymnasium(space: gym.Space) -> None:
    space.seed(1)
    samples = [space.sample() for _ in range(5)]
    flat = FlatSpace("obs", space)
    found = flat.columns(samples)
    expected = flat.leaf_batches(concatenate(space, samples, create_empty_array(space, 5)))
    assert found.keys() == expected.keys()
    for key, column in found.items():
        assert column.dtype == expected[key].dtype
        np.testing.assert_array_equal(column, expected[key])


@pytest.mark.parametrize("space", [EVERY_KIND, *EVERY_KIND.values()], ids=str)
def test_actions_round_trip_through_an_environment(space: gym.Space) -> None:
    env = GymVecEnv([partial(Echo, space)] * 4)
    env.reset(0)
    for leaf in env.action_space.values():
        leaf.seed(3)
    for _ in range(20):
        rows = [{k: leaf.sample() for k, leaf in env.action_space.items()} for _ in range(4)]
        action = {k: torch.as_tensor(np.array([row[k] for row in rows])) for k in rows[0]}
        action = {k: v.float() if v.is_floating_point() else v.long() for k, v in action.items()}
        obs = env.step(action).obs
        for key, leaf in action.items():
            torch.testing.assert_close(obs["obs" + key.removeprefix("action")], leaf)


def test_bounds_rounded_to_float32_are_still_in_the_space() -> None:
    space = spaces.Box(-0.1, 0.1, (2,), dtype=np.float64)
    assert np.float64(np.float32(0.1)) > 0.1
    env = GymVecEnv([partial(Echo, space)] * 2)
    env.reset(0)
    edge = torch.tensor([[0.1, -0.1]] * 2)
    torch.testing.assert_close(env.step({"action": edge}).obs["obs"], edge, rtol=0, atol=0)


def test_actions_are_copied() -> None:
    flat = ActionSpace("action", spaces.Box(-1, 1, (2,)))
    action = torch.zeros(3, 2)
    flat.write({"action": action}, 3)[:] = 0.5
    assert (action == 0).all()


def test_other_integer_and_float_dtypes_of_actions_are_accepted() -> None:
    die = ActionSpace("action", spaces.Discrete(6, start=1))
    assert die.write({"action": torch.tensor([0, 5], dtype=torch.int32)}, 2).tolist() == [1, 6]
    box = ActionSpace("action", spaces.Box(-1, 1, (1,)))
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        half = torch.full((2, 1), 0.5, dtype=dtype, requires_grad=True)
        assert box.write({"action": half}, 2).tolist() == [[0.5]] * 2


BAD_ACTIONS = {
    "too great": (spaces.Discrete(3), torch.tensor([0, 3]), "row 1 is 3"),
    "negative": (spaces.Discrete(3), torch.tensor([-1, 0]), "row 0 is -1"),
    "start is subtracted": (spaces.Discrete(3, start=5), torch.tensor([0, 5]), "row 1 is 5"),
    "float": (spaces.Discrete(3), torch.tensor([0.0, 1.0]), "dtype int64, not torch.float32"),
    "bool": (spaces.Discrete(2), torch.tensor([True, False]), "not torch.bool"),
    "column": (spaces.Discrete(3), torch.tensor([[0], [1]]), r"shape [2], not [2, 1]"),
    "too few rows": (spaces.Discrete(3), torch.tensor([0]), r"shape [2], not [1]"),
    "one of many": (
        spaces.MultiDiscrete([2, 9]),
        torch.tensor([[1, 8], [2, 0]]),
        "row 1 is [2, 0]",
    ),
    "bits": (spaces.MultiBinary(2), torch.tensor([[1, 0], [0, 2]]), "row 1 is [0, 2]"),
    "not flat": (
        spaces.MultiBinary([2, 2]),
        torch.zeros(2, 2, 2, dtype=torch.int64),
        r"shape [2, 4], not [2, 2, 2]",
    ),
    "outside": (spaces.Box(-1, 1, (1,)), torch.tensor([[0.0], [1.01]]), "row 1 is [1.0"),
    "nan": (spaces.Box(-1, 1, (1,)), torch.tensor([[float("nan")], [0.0]]), "row 0 is [nan]"),
    "nan, no bounds": (
        spaces.Box(-np.inf, np.inf, (1,)),
        torch.tensor([[0.0], [float("nan")]]),
        "row 1 is [nan]",
    ),
    "infinity": (
        spaces.Box(-np.inf, np.inf, (1,)),
        torch.tensor([[0.0], [float("-inf")]]),
        "row 1 is [-inf]",
    ),
    "integers": (spaces.Box(-1, 1, (1,)), torch.tensor([[0], [1]]), "dtype float32, not"),
}


@pytest.mark.parametrize("case", BAD_ACTIONS)
def test_an_invalid_action_names_the_space_and_the_error(case: str) -> None:
    space, action, message = BAD_ACTIONS[case]
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        ActionSpace("action", space).write({"action": action}, 2)
    assert str(space) in str(error.value)
    assert "'action'" in str(error.value)


def test_a_missing_or_unknown_leaf_of_an_action_is_named() -> None:
    flat = ActionSpace("action", spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Discrete(2)}))
    a, b = torch.tensor([0]), torch.tensor([1])
    with pytest.raises(ValueError, match=r"keys action\.a, action\.b of Dict.*not action\.a"):
        flat.write({"action.a": a}, 1)
    with pytest.raises(ValueError, match="not none"):
        flat.write({}, 1)
    with pytest.raises(ValueError, match=r"action\.c"):
        flat.write({"action.a": a, "action.b": b, "action.c": b}, 1)
    with pytest.raises(ValueError, match=r"'action\.b' is not in Discrete\(2\)"):
        flat.write({"action.a": a, "action.b": b + 1}, 1)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("space", UNSUPPORTED, ids=lambda space: type(space).__name__)
def test_unsupported_spaces_are_refused(space: gym.Space, vectorization: str) -> None:
    message = re.escape(f"{space} is not supported (supported: Box, Discrete")
    nested = spaces.Dict({"fine": spaces.Discrete(2), "odd": space})
    with pytest.raises(UsageError, match=r"'obs\.odd': " + message):
        GymVecEnv([partial(Shows, nested)], vectorization)
    with pytest.raises(UsageError, match="'action': " + message):
        GymVecEnv([partial(ActsIn, space)], vectorization)


class ActsIn(Echo):
    """Observations in Discrete(2), actions in any space."""

    def __init__(self, space: gym.Space) -> None:
        super().__init__(space)
        self.observation_space = spaces.Discrete(2)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.bool_])
def test_action_boxes_of_integers_are_refused(dtype: type) -> None:
    with pytest.raises(UsageError, match=r"action.*Box.*a Box of floats"):
        ActionSpace("action", spaces.Box(0, 1, (2,), dtype=dtype))


def test_empty_and_ambiguous_spaces_are_refused() -> None:
    with pytest.raises(UsageError, match="is empty"):
        FlatSpace("obs", spaces.Tuple(()))
    twice = spaces.Dict({"a.b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(3)})})
    with pytest.raises(UsageError, match="same name"):
        FlatSpace("obs", twice)
