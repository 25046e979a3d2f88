"""Checks of options: types by annotations, ranges by names; random values for everything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rlmem import algos, cores, envs, options
from rlmem.cli.third_party import CONFIGS
from rlmem.cores.base import registry
from rlmem.errors import UsageError
from rlmem.options import FINITE, RANGES, Range, check_call, check_range, check_type, declared_types
from rlmem.runs import memory

PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.sampled_from([2**31, 2**63 - 1, 2**63, 10**30, -(10**12)]),
    st.floats(-2, 2),
    st.sampled_from([math.nan, math.inf, -math.inf, 5e-324, 1e300]),
    st.sampled_from(["", "text", "tanh", "auto", "ü", "a\nb", "-1"]),
)
VALUES = st.one_of(
    PLAIN,
    st.lists(PLAIN, max_size=3),
    st.dictionaries(st.sampled_from(["a", "name"]), PLAIN, max_size=2),
)
CORE_OPTIONS = [
    (name, option)
    for name in cores.names()
    for option in registry.options(name)
    if option not in ("input_size", "output_size")
]


@settings(max_examples=250, deadline=None, derandomize=True)
@given(choice=st.sampled_from(CORE_OPTIONS), value=VALUES)
def test_a_core_takes_an_option_or_refuses_it_in_one_line(choice: Any, value: Any) -> None:
    name, option = choice
    declared = declared_types(registry.get(name)).get(option)
    if type(value) is int and declared in (float, float | None):
        value = float(value)  # the annotations checked in tests take no integers there
    message = ""
    try:
        with memory.errors():
            cores.make(name, input_size=4, output_size=8, **{option: value})
    except UsageError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 1000


@settings(max_examples=300, deadline=None, derandomize=True)
@given(value=VALUES, declared=st.sampled_from([int, float, bool, str, int | None, list[int]]))
def test_a_type_is_accepted_or_refused(value: Any, declared: Any) -> None:
    kinds = {int: int, float: int | float, bool: bool, str: str, list[int]: list}
    wanted = kinds.get(declared, int | None)
    fits = isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
    if fits:
        check_type("x", value, declared)
    else:
        with pytest.raises(UsageError, match="x must be "):
            check_type("x", value, declared)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(value=st.one_of(st.integers(), st.floats()), name=st.sampled_from([*RANGES, "other"]))
def test_a_number_in_its_range_is_finite(value: Any, name: str) -> None:
    allowed = RANGES.get(name, FINITE)
    message = None
    try:
        check_range(f"option of algo 'ppo': {name}", value)
    except UsageError as error:
        message = str(error)
    if message is None:
        assert allowed.low <= value <= allowed.high
        assert allowed.infinite or math.isfinite(value)
    else:
        assert f"{name} must be " in message


def test_messages_by_hand() -> None:
    for value, name, message in (
        (math.nan, "algo.gamma", "algo.gamma must be between 0 and 1, not nan"),
        (-3, "algo.clip_value", "algo.clip_value must be above 0, not -3"),
        (math.inf, "adam_eps", "adam_eps must be above 0 and finite, not inf"),
        ([0.5, 2.0], "gammas", "gammas must be between 0 and 1, not 2.0"),
        ({"beta": -1}, "replay", "replay.beta must be between 0 and 1, not -1"),
        (10**30, "x", f"x must be at most {2**40} in size, not {10**30}"),
        (math.inf, "x", "x must be finite, not inf"),
        (0, "learning_rate", "learning_rate must be above 0, not 0"),
    ):
        with pytest.raises(UsageError) as error:
            check_range(name, value)
        assert str(error.value) == message
    check_range("max_grad_norm", math.inf)
    check_range("flag", True)
    for value, kind, message in (
        ("a", float | None, "x must be a number or null, not 'a'"),
        ({"a": 1}, bool, "x must be true or false, not {'a': 1}"),
        (None, Sequence[str], "x must be a list, not null"),
        (3, Mapping[str, Any] | None, "x must be a dict of options or null, not 3"),
        (1.5, int, "x must be an integer, not 1.5"),
        (True, int, "x must be an integer, not True"),
    ):
        with pytest.raises(UsageError) as error:
            check_type("x", value, kind)
        assert str(error.value) == message
    check_type("x", object(), object)  # other annotations are not checked


def test_options_of_a_class_and_its_bases() -> None:
    class Base:
        def __init__(self, size: int, name: str = "") -> None: ...

    class Derived(Base):
        def __init__(self, share: float, **options: Any) -> None: ...

    found = declared_types(Derived)
    assert (found["size"], found["name"], found["share"]) == (int, str, float)
    check_call("thing", Derived, {"size": 3, "share": 1})
    with pytest.raises(UsageError, match="unknown option of thing: 'sise'; did you mean size"):
        check_call("thing", Derived, {"sise": 3})
    with pytest.raises(UsageError, match=r"thing.size must be an integer, not 'a'"):
        check_call("thing", Derived, {"size": "a"})


@pytest.mark.parametrize("group", ["core", "env", "algo", "policy", "tuned"])
def test_all_defaults_are_in_their_ranges(group: str) -> None:
    files = sorted((CONFIGS / group).glob("*.yaml"))
    assert files
    for file in files:
        check_range("", yaml.safe_load(file.read_text()) or {})


def test_python_is_checked_too() -> None:
    env = envs.make("popgym-repeat", num_envs=2)
    for wrong, message in (
        ({"gamma": math.nan}, "gamma must be between 0 and 1, not nan"),
        ({"norm_adv": None}, "norm_adv must be true or false, not null"),
        ({"clip_value": -3.0}, "clip_value must be above 0, not -3.0"),
        ({"target_kl": "text"}, "target_kl must be a number or null, not 'text'"),
        ({"gama": 0.5}, "unknown option of algo 'ppo': 'gama'; did you mean gamma"),
    ):
        with pytest.raises(UsageError, match=message):
            algos.make("ppo", env=env, policy=None, seed=[0, 1], **wrong)
    with pytest.raises(UsageError, match="options must be a dict of options or null, not 3"):
        cores.make("stack", input_size=4, options=3)


def test_a_range_in_words() -> None:
    assert str(Range(0, 1)) == "between 0 and 1"
    assert str(Range(1)) == "at least 1"
    assert options.like({"a": True, "b": 1, "c": 0.5, "d": None, "e": "x"}) == {
        "a": bool,
        "b": float,
        "c": float,
    }
