"""Live values: all tensors and numbers that a step reads and changes, in objects and containers.

A captured step reads and writes fixed memory. So the tensors of an object are replaced by copies at
fixed places, and its numbers of the host, which decide about the operations of the next step, tell
one captured step from another. A `Count` is such a number of which only 0 makes a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

from torch import Tensor

# Classes whose attributes are live have the first class attribute set to True. The second one names
# attributes that a step lowers by 1, unless they are 0.
REPLAYABLE, COUNTDOWNS = "replayable", "countdowns"
PLAIN = (bool, int, float, str, type(None))

Path = tuple[Hashable, ...]


class Count(NamedTuple):
    """A number of the host that a step lowers by 1; steps with another number than 0 are alike."""

    value: int


class Part(NamedTuple):
    """An object and its attributes at one time."""

    owner: Any
    attributes: dict[str, Any]


def is_replayable(value: Any) -> bool:
    """Whether the attributes of an object are live."""
    return getattr(type(value), REPLAYABLE, False) is True


def read(value: Any) -> Any:
    """A copy of all containers in `value`; objects become `Part`s, tensors stay the same."""
    if is_replayable(value):
        countdowns = getattr(type(value), COUNTDOWNS, ())
        return Part(
            value,
            {
                name: Count(each) if name in countdowns else read(each)
                for name, each in vars(value).items()
            },
        )
    return _rebuilt(value, lambda _, each: read(each))


def write(tree: Any) -> Any:
    """The value of which `tree` is the copy, with all attributes of its objects set to it."""
    if isinstance(tree, Part):
        for name, each in tree.attributes.items():
            setattr(tree.owner, name, write(each))
        return tree.owner
    if isinstance(tree, Count):
        return tree.value
    return _rebuilt(tree, lambda _, each: write(each))


def replaced(tree: Any, change: Callable[[Path, Any], Any], path: Path = ()) -> Any:
    """`tree` with each tensor and count changed by `change(path, tensor)`."""
    if isinstance(tree, (Tensor, Count)):
        return change(path, tree)
    if isinstance(tree, Part):
        return Part(tree.owner, replaced(tree.attributes, change, path))
    return _rebuilt(tree, lambda key, each: replaced(each, change, (*path, key)))


def form(tree: Any, path: Path = ()) -> tuple[Hashable, ...]:
    """The numbers of the host in `tree`, and the layouts of its tensors."""
    if isinstance(tree, Tensor):
        return ((path, tree.shape, tree.stride(), tree.dtype),)
    if isinstance(tree, Part):
        return form(tree.attributes, path)
    if isinstance(tree, PLAIN):
        return ((path, tree),)
    if isinstance(tree, Count):
        return ()
    return tuple(item for key, each in _entries(tree) for item in form(each, (*path, key)))


def obstacle(env: Any) -> str | None:
    """The reason why the steps of an environment cannot be captured, in words; None without one."""
    while env is not None:
        if not is_replayable(env):
            return f"{type(env).__name__} runs on the host"
        if getattr(env, "check_actions", False):
            return "check_actions reads every action"
        if getattr(env, "_obs_check", None) is not None:
            return "its observations or masks are checked on the host"
        env = getattr(env, "env", None)
    return None


def _entries(value: Any) -> Iterable[tuple[Hashable, Any]]:
    """The entries of a container with their keys or places; of anything else, none."""
    if type(value) is dict:
        return value.items()
    return enumerate(value) if type(value) is list or _is_tuple(value) else ()


def _rebuilt(value: Any, change: Callable[[Hashable, Any], Any]) -> Any:
    """A container with its entries changed; anything else as it is."""
    entries = [change(key, each) for key, each in _entries(value)]
    if type(value) is dict:
        return dict(zip(value, entries, strict=True))
    if type(value) is list:
        return entries
    if _is_tuple(value):
        return type(value)(*entries) if hasattr(value, "_fields") else tuple(entries)
    return value


def _is_tuple(value: Any) -> bool:
    """Whether a value is a plain or a named tuple."""
    return type(value) is tuple or (isinstance(value, tuple) and hasattr(value, "_fields"))
