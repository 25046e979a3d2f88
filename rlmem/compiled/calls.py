"""Captured functions of tensors."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from torch import Tensor

from rlmem.compiled import live
from rlmem.compiled.capture import Capture, NotCaptured, copy_pairs

WARM_UP = 2  # calls of a function before it is captured
MOST_SHAPES = 8  # of the arguments of a function


class Call:
    """Functions of tensors, captured for each function and shape of its arguments.

    Arguments that are no tensors are constants, told apart by identity if they have no hash. A
    reason against a capture goes to `say`.
    """

    def __init__(self, capture: Capture, say: Callable[[str], None]) -> None:
        self.capture, self.say = capture, say
        self.entries: dict[Hashable, _Entry] = {}
        self.failed = False

    def __call__(self, function: Callable[..., Any], *given: Any) -> Any:
        """`function(*given)`: tensors, or tuples and dicts of them, which later calls keep."""
        if self.failed or self.capture.broken:
            return function(*given)
        key = (function, *(_argument(each) for each in given))
        entry = self.entries.get(key)
        if entry is None:
            if len(self.entries) == MOST_SHAPES:
                return self._give_up("its arguments change their shapes", function, given)
            fixed = [each.clone() if isinstance(each, Tensor) else each for each in given]
            entry = self.entries[key] = _Entry(fixed)
        pairs = zip(entry.given, given, strict=True)
        copy_pairs([(a, b) for a, b in pairs if isinstance(a, Tensor)])
        if entry.visits < WARM_UP:
            entry.visits += 1
            with self.capture.beside():
                return function(*entry.given)
        if entry.graph is None:
            try:
                entry.graph, entry.found = self.capture(lambda: function(*entry.given))
            except NotCaptured as error:
                return self._give_up(str(error), function, given)
        entry.graph.replay()
        return live.replaced(entry.found, lambda _, tensor: tensor.clone())

    def forget(self) -> None:
        """Capture again at later calls: tensors that are no arguments have other addresses."""
        self.entries.clear()

    def _give_up(self, reason: str, function: Callable[..., Any], given: Any) -> Any:
        self.failed = True
        self.entries.clear()
        self.say(reason)
        return function(*given)


class _Entry:
    """A function with fixed arguments, its graph once it is captured, and its fixed results."""

    def __init__(self, given: list[Any]) -> None:
        self.given = given
        self.visits = 0
        self.graph: Any = None
        self.found: Any = None


def _argument(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    return value if isinstance(value, Hashable) else id(value)
