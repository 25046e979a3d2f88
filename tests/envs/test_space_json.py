"""Saved spaces equal the originals, and damaged ones are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gymnasium import spaces

from rlmem.envs.space_json import space_from_json, space_to_json
from rlmem.errors import UsageError

SPACES = [
    spaces.Box(0, 255, (84, 84, 3), np.uint8),
    spaces.Box(-np.inf, np.inf, (3,), np.float32),
    spaces.Box(np.array([-1.0, 0.1], np.float32), np.array([np.inf, 0.2], np.float32)),
    spaces.Box(-0.1, 0.7, (), np.float64),
    spaces.Discrete(4, start=-2),
    spaces.MultiDiscrete([2, 3], start=[1, 0]),
    spaces.MultiDiscrete([[2, 3], [4, 5]]),
    spaces.MultiBinary(5),
    spaces.MultiBinary([2, 3]),
    spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Tuple([spaces.Discrete(3)])}),
    spaces.Dict(b=spaces.Discrete(2), a=spaces.Discrete(3)),  # keywords keep their order
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_saved_space_is_the_same(space: spaces.Space) -> None:
    text = json.dumps(space_to_json(space), allow_nan=False)
    again = space_from_json(json.loads(text))
    assert again == space
    assert again.dtype == space.dtype
    if isinstance(space, spaces.Dict):
        assert list(again) == list(space)


def test_a_large_image_is_a_short_text() -> None:
    assert len(json.dumps(space_to_json(SPACES[0]))) < 100


@pytest.mark.parametrize("data", [{}, {"box": [2]}, {"discrete": -1, "start": 0}, [1], None])
def test_damaged_data_is_refused(data: object) -> None:
    with pytest.raises(UsageError, match="not a saved space"):
        space_from_json(data)


def test_an_unsupported_space_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be saved"):
        space_to_json(spaces.Text(3))
