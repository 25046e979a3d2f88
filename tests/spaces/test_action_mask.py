"""Masks of actions: the forms that are found by name, their legal actions, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlmem.errors import UsageError
from rlmem.spaces.action_mask import ActionMask, Legal

Space = spaces.Space


def box(*shape: int, dtype: type = np.int8) -> spaces.Box:
    return spaces.Box(0, 1, shape, dtype)  # type: ignore[arg-type]


def found(observations: dict[str, Space], actions: dict[str, Space]) -> ActionMask:
    mask = ActionMask.find({"obs.image": box(3), **observations}, actions)
    assert mask is not None
    return mask


def legal(mask: ActionMask, **leaves: list) -> dict[str, Legal]:
    """The legal actions; `a__b` is the leaf `obs.action_mask.a.b`, `whole` is the only one."""
    obs = {"obs.image": torch.zeros(1, 3)}
    for name, values in leaves.items():
        path = "" if name == "whole" else "." + name.lstrip("_").replace("__", ".")
        obs["obs.action_mask" + path] = torch.tensor([values])
    return mask(obs)


def test_a_mask_of_one_discrete_action():
    mask = found({"obs.action_mask": box(4)}, {"action": spaces.Discrete(4)})
    assert mask.keys == ("obs.action_mask",)
    got = legal(mask, whole=[0, 1, 0, 1])["action"]
    assert got.mask.tolist() == [[False, True, False, True]]
    assert not got.joint
    # The batch may have any dimensions, and the values any dtype.
    many = mask({"obs.action_mask": torch.rand(2, 5, 4) < 0.5})
    assert many["action"].mask.shape == (2, 5, 4)


def test_without_a_mask_or_discrete_actions_there_is_none():
    assert ActionMask.find({"obs": box(4)}, {"action": spaces.Discrete(4)}) is None
    continuous = {"action": spaces.Box(-1, 1, (4,))}
    assert ActionMask.find({"obs.action_mask": box(4)}, continuous) is None
    similar = {"obs.action_masks": box(4), "previous_action_mask": box(4), "obs.mask": box(4)}
    assert ActionMask.find(similar, {"action": spaces.Discrete(4)}) is None


def test_the_mask_is_found_below_other_parts_and_without_a_root():
    for name in ("obs.player.action_mask", "action_mask"):
        mask = ActionMask.find({name: box(4), "obs": box(2)}, {"action": spaces.Discrete(4)})
        assert mask is not None
        assert mask.keys == (name,)
        assert list(mask.others({name: box(4), "obs": box(2)})) == ["obs"]


def test_concatenated_and_joint_masks_of_several_entries():
    actions = {"action": spaces.MultiDiscrete([2, 3])}
    each = legal(found({"obs.action_mask": box(5)}, actions), whole=[1, 0, 0, 1, 1])["action"]
    assert each.mask.tolist() == [[True, False, False, True, True]]
    assert not each.joint
    for shape in ((6,), (2, 3)):
        mask = found({"obs.action_mask": box(*shape)}, actions)
        values = np.reshape([1, 0, 0, 0, 1, 0], shape).tolist()
        joint = legal(mask, whole=values)["action"]
        assert joint.mask.tolist() == [[True, False, False, False, True, False]]
        assert joint.joint


def test_a_mask_that_fits_both_forms_is_joint_only_if_its_shape_says_so():
    actions = {"action": spaces.MultiDiscrete([2, 2])}
    assert not legal(found({"obs.action_mask": box(4)}, actions), whole=[1, 1, 1, 0])[
        "action"
    ].joint
    square = legal(found({"obs.action_mask": box(2, 2)}, actions), whole=[[1, 1], [1, 0]])
    assert square["action"] == Legal(square["action"].mask, True)


def test_a_tuple_of_masks_is_their_concatenation():
    masks = {"obs.action_mask.0": box(2), "obs.action_mask.1": box(3)}
    mask = found(masks, {"action": spaces.MultiDiscrete([2, 3])})
    assert legal(mask, _0=[0, 1], _1=[1, 0, 1])["action"].mask.tolist() == [
        [False, True, True, False, True]
    ]


def test_nested_actions_with_one_mask_or_one_for_some_leaves():
    actions: dict[str, Space] = {
        "action.arm.grip": spaces.MultiBinary(1),
        "action.move": spaces.MultiDiscrete([2, 2]),
        "action.push": spaces.Box(-1, 1, (2,)),
        "action.say": spaces.Discrete(3),
    }
    whole = legal(found({"obs.action_mask": box(9)}, actions), whole=[1, 0, 1, 0, 0, 1, 1, 1, 0])
    assert list(whole) == ["action.arm.grip", "action.move", "action.say"]
    assert whole["action.move"].mask.tolist() == [[True, False, False, True]]
    assert whole["action.say"].mask.tolist() == [[True, True, False]]
    some = {
        "obs.action_mask.arm.grip": box(2),
        "obs.action_mask.move.0": box(2),
        "obs.action_mask.move.1": box(2),
    }
    got = legal(found(some, actions), arm__grip=[0, 1], move__0=[1, 0], move__1=[1, 1])
    assert list(got) == ["action.arm.grip", "action.move"]
    assert got["action.move"].mask.tolist() == [[True, False, True, True]]


def test_all_actions_count_as_legal_where_none_is():
    mask = found({"obs.action_mask": box(5)}, {"action": spaces.MultiDiscrete([2, 3])})
    obs = {"obs.action_mask": torch.tensor([[0, 0, 0, 1, 0], [1, 0, 0, 0, 0], [1, 0, 0, 1, 1]])}
    assert mask.none_legal(obs).tolist() == [True, True, False]
    assert mask(obs)["action"].mask.tolist() == [
        [True, True, False, True, False],
        [True, False, True, True, True],
        [True, False, False, True, True],
    ]
    joint = found({"obs.action_mask": box(2, 3)}, {"action": spaces.MultiDiscrete([2, 3])})
    board = torch.zeros(2, 2, 3)
    board[1, 0, 2] = 1
    assert joint.none_legal({"obs.action_mask": board}).tolist() == [True, False]
    assert joint({"obs.action_mask": board})["action"].mask.sum(1).tolist() == [6, 1]


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (
            {"obs.action_mask": box(5)},
            spaces.Discrete(4),
            "has 5 entries, and a mask of action has 4",
        ),
        (
            {"obs.action_mask": box(7)},
            spaces.MultiDiscrete([2, 3]),
            "7 entries, and a mask of action has 5, one for each value, or 6, one for each comb",
        ),
        (
            {"obs.action_mask.0": box(2), "obs.action_mask.1": box(2)},
            spaces.MultiDiscrete([2, 3]),
            "obs.action_mask.1 has 2 entries, and a mask of action has 3",
        ),
        (
            {"obs.action_mask.jump": box(4)},
            spaces.Discrete(4),
            "obs.action_mask.jump masks no discrete action",
        ),
        (
            {"obs.a.action_mask": box(4), "obs.b.action_mask": box(4)},
            spaces.Discrete(4),
            "2 action masks: obs.a.action_mask, obs.b.action_mask",
        ),
    ],
)
def test_a_mask_that_does_not_fit_is_one_line(
    observations: dict[str, Space], actions: Space, message: str
):
    with pytest.raises(UsageError, match=message) as error:
        ActionMask.find(observations, {"action": actions})
    assert "\n" not in str(error.value)


def test_observations_of_another_shape_are_refused():
    mask = found({"obs.action_mask": box(4)}, {"action": spaces.Discrete(4)})
    with pytest.raises(ValueError, match=r"obs 'obs.action_mask' is \[2, 5\]"):
        mask({"obs.action_mask": torch.ones(2, 5)})
    with pytest.raises(ValueError, match=r"'obs\.action_mask' is missing"):
        mask({"obs": torch.ones(2, 5)})


def test_a_mask_alone_is_no_observation():
    mask = found({"obs.action_mask": box(4)}, {"action": spaces.Discrete(4)})
    with pytest.raises(UsageError, match=r"policy\.action_mask=false"):
        mask.others({"obs.action_mask": box(4)})


def test_descriptions():
    one = found({"obs.action_mask": box(2, 3)}, {"action": spaces.MultiDiscrete([2, 3])})
    assert one.describe() == {
        "obs.action_mask": "mask of 6 combinations of action → legal actions, not an input"
    }
    two = found({"obs.action_mask": box(5)}, {"a": spaces.Discrete(2), "b": spaces.Discrete(3)})
    assert two.describe()["obs.action_mask"].startswith("mask of 2 values of a and 3 values of b")
