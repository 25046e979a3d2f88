"""Checks of options by their declarations: types by annotations, and ranges by names."""

from __future__ import annotations

import contextlib
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from rlmem.errors import UsageError, unknown

# No integer of torch or NumPy is larger.
LARGEST = 2**63 - 1
# No size that fits a memory is larger, and products of a few of them are within int64.
LARGEST_SIZE = 2**40
TYPE_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a dict of options",
}


class Range(NamedTuple):
    """The allowed numbers: from `low` to `high`; `above` excludes `low`."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    infinite: bool = False

    def __contains__(self, value: object) -> bool:
        assert isinstance(value, int | float)
        if not (math.isfinite(value) or (self.infinite and value == math.inf)):
            return False
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        if math.isfinite(self.high):
            return f"between {self.low:.10g} and {self.high:.10g}"
        if math.isfinite(self.low):
            return f"{'above' if self.above else 'at least'} {self.low:g}"
        return "finite"


FINITE = Range()
FRACTION = Range(0, 1)
POSITIVE = Range(0, above=True)
NOT_NEGATIVE = Range(0)
COUNT = Range(1)


def _named(allowed: Range, names: str) -> dict[str, Range]:
    return dict.fromkeys(names.split(), allowed)


# Ranges of options by name, for all cores, environments, algorithms and commands. Those that are
# not listed are finite.
RANGES: dict[str, Range] = {
    **_named(
        FRACTION,
        "gamma gammas gae_lambda q_lambda tau target_tau start_e end_e epsilon alpha_decay eta "
        "exploration_fraction popart_beta beta heldout_share hazard discrete_target_entropy "
        "discrete_target_entropy_end dropout",
    ),
    **_named(
        POSITIVE,
        "learning_rate alpha_learning_rate adam_eps clip_coef clip_value clip_obs target_kl "
        "reward_scale concentration heldout_concentration",
    ),
    **_named(
        NOT_NEGATIVE,
        "rescale_eps ent_coef vf_coef critic_coef online_coef offline_coef epsilon_alpha noise "
        "alpha learning_starts predict_obs predict_reward",
    ),
    **_named(
        COUNT,
        "total_steps num_envs hidden_size eval_episodes eval_max_steps episodes trials "
        "trial_episodes checkpoint_keep batch legs capacity target_period max_episode_steps "
        "max_steps",
    ),
    # More of them would take longer than anybody waits.
    **_named(Range(1, 1000), "layers householder_steps depth blocks frames num_critics"),
    **_named(Range(0, 1000), "encoder_layers head_layers muon_steps"),
    **_named(
        Range(1, 1_000_000),
        "num_steps num_epochs num_minibatches num_updates batch_size length stride n_step "
        "episode_stride corridor_length min_length corridors targets",
    ),
    **_named(Range(0, 1_000_000), "delay burn_in"),
    "max_grad_norm": Range(0, above=True, infinite=True),
    "seed": Range(0, LARGEST),
    "threads": Range(1, 1024),
}


def check(owner: str, given: Mapping[str, Any], declared: Mapping[str, Any]) -> None:
    """Raise a `UsageError` for an option of another type or out of its range.

    `declared` has the types of options, as annotations; others than bool, numbers, text, sequences
    and mappings of these are not checked. `owner` begins the message.
    """
    for name, value in given.items():
        if name in declared:
            check_type(f"{owner}{name}", value, declared[name])
        check_range(f"{owner}{name}", value)


def check_call(kind: str, factory: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """`check` the keywords of a call; a `UsageError` too for one that the factory does not take."""
    declared = declared_types(factory)
    names = declared.keys() - {"return"}
    for name in given:
        if name not in names:
            raise unknown(f"option of {kind}:", name, names)
    check(f"{kind}.", given, declared)


def check_type(name: str, value: Any, declared: Any) -> None:
    """Raise a `UsageError` unless `value` has the declared type; an integer is a number too."""
    allowed = _alternatives(declared)
    if allowed is None or any(_is(value, each) for each in allowed):
        return
    names = [TYPE_NAMES[each] for each in allowed if each in TYPE_NAMES]
    names += ["null"] if type(None) in allowed else []
    shown = "null" if value is None else repr(value)
    raise UsageError(f"{name} must be {' or '.join(names)}, not {_short(shown)}")


def check_range(name: str, value: Any) -> None:
    """Raise a `UsageError` for a number out of the range of the option's name, or of int64.

    Each entry of a list has the same range.
    """
    if isinstance(value, list | tuple):
        for each in value:
            check_range(name, each)
    if isinstance(value, Mapping):
        for key, each in value.items():
            check_range(f"{name}.{key}", each)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    option = name.rpartition(".")[2].rpartition(" ")[2]
    allowed, largest = RANGES.get(option, FINITE), LARGEST if option in RANGES else LARGEST_SIZE
    if value not in allowed:
        unbounded = math.isinf(value) and math.isinf(allowed.high) and allowed != FINITE
        finite = " and finite" if unbounded else ""
        text = f"{allowed}{finite}"
        if isinstance(value, int) and allowed.low >= 1:
            least, most = f"an integer of at least {allowed.low:g}", f"at most {allowed.high:.10g}"
            text = least if value < allowed.low else most
        raise UsageError(f"{name} must be {text}, not {value}")
    if isinstance(value, int) and abs(value) > largest:
        raise UsageError(f"{name} must be at most {largest} in size, not {value}")


@lru_cache(maxsize=256)
def declared_types(factory: Callable[..., Any]) -> Mapping[str, Any]:
    """Annotations of the arguments of a function, or of the constructors of a class and bases."""
    functions: list[Any] = [factory]
    if inspect.isclass(factory):
        functions = [vars(each).get("__init__") for each in reversed(factory.__mro__)]
    found: dict[str, Any] = {}
    for function in functions:
        # Some names are imported for type checkers only, and some constructors have no annotations.
        with contextlib.suppress(NameError, TypeError, AttributeError):
            found |= typing.get_type_hints(function)
    return found


def like(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Types of options without annotations: flags and numbers tell them by their defaults."""
    kinds = {bool: bool, int: float, float: float}
    return {name: kinds[type(each)] for name, each in defaults.items() if type(each) in kinds}


def _alternatives(declared: Any) -> Collection[type] | None:
    """The plain types of an annotation; None if it has others, which are not checked."""
    whole = typing.get_args(declared) if _is_union(declared) else (declared,)
    found: list[type] = []
    for each in whole:
        origin = typing.get_origin(each) or each
        if origin in (list, tuple, Sequence):
            found.append(list)
        elif origin in (dict, Mapping):
            found.append(dict)
        elif origin in (bool, int, float, str, type(None)):
            found.append(origin)
        else:
            return None
    return found


def _is_union(declared: Any) -> bool:
    return typing.get_origin(declared) in (typing.Union, types.UnionType)


def _is(value: Any, kind: type) -> bool:
    if kind in (list, dict):
        return isinstance(value, (list, tuple) if kind is list else Mapping)
    if kind in (int, float):
        if isinstance(value, bool):
            return False
        # NumPy's numbers have these methods too.
        return hasattr(value, "__index__") or (kind is float and hasattr(value, "__float__"))
    return isinstance(value, kind)


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}..."
