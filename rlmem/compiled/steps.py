"""Captured steps, which change live values."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from torch import Tensor

from rlmem.compiled import live
from rlmem.compiled.capture import Capture, NotCaptured, copy_pairs

MOST_GRAPHS = 512  # of a step


class Moment(NamedTuple):
    """Live values in fixed tensors, at one time; `counts` holds the numbers of its counts."""

    form: Hashable
    tree: Any
    counts: dict[live.Path, int]

    @property
    def kind(self) -> Hashable:
        """Steps from moments of one kind have the same operations."""
        return self.form, *(count == 0 for count in self.counts.values())

    def after(self, recorded: Moment) -> Moment:
        """The moment after a replay, which was captured from a moment of the same kind."""
        pairs = zip(self.counts.items(), recorded.counts.values(), strict=True)
        counts = {path: count - 1 if count else new for (path, count), new in pairs}
        return recorded._replace(counts=counts)

    def values(self) -> Any:
        """The live values themselves, set in their owners."""

        def counted(path: live.Path, value: Any) -> Any:
            return live.Count(self.counts[path]) if isinstance(value, live.Count) else value

        return live.write(live.replaced(self.tree, counted))


class Steps:
    """A step, captured for each combination of the host's numbers among its live values.

    The first step with a combination runs without a graph, the second one is captured. A
    reason against a capture goes to `say`.
    """

    def __init__(self, capture: Capture, say: Callable[[str], None]) -> None:
        self.capture, self.say = capture, say
        self.fixed: dict[Hashable, Tensor] = {}
        self.recorded: dict[Hashable, tuple[Any, Moment] | None] = {}
        self.failed = False

    def __call__(
        self,
        step: Callable[[], None],
        read: Callable[[], Any],
        write: Callable[[Any], None],
        count: int,
    ) -> None:
        """`count` steps. `read()` gives all values that a step changes, `write` sets them."""
        if not (self.failed or self.capture.broken):
            count = self._run(step, read, write, count)
        for _ in range(count):
            step()

    def _run(
        self,
        step: Callable[[], None],
        read: Callable[[], Any],
        write: Callable[[Any], None],
        count: int,
    ) -> int:
        """Run steps until one cannot be captured; returns the number of those that are left."""
        moment = self._settled(live.read(read()))
        for done in range(count):
            if recorded := self.recorded.get(moment.kind):
                graph, after = recorded
                graph.replay()
                moment = moment.after(after)
                continue
            # Replays have changed nothing but tensors.
            write(moment.values())
            try:
                moment = self._visit(moment, step, read)
            except NotCaptured as error:
                write(moment.values())
                self._give_up(str(error))
                return count - done
        write(moment.values())
        return 0

    def _visit(self, moment: Moment, step: Callable[[], None], read: Callable[[], Any]) -> Moment:
        """Run a step without a graph, or capture it and replay it; returns the moment after it."""

        def whole() -> Moment:
            step()
            return self._settled(live.read(read()))

        if moment.kind not in self.recorded:
            if len(self.recorded) == MOST_GRAPHS:
                raise NotCaptured(f"more than {MOST_GRAPHS} kinds of steps")
            self.recorded[moment.kind] = None
            with self.capture.beside():
                return whole()
        graph, after = self.capture(whole)
        self.recorded[moment.kind] = graph, after
        graph.replay()
        return after

    def _settled(self, tree: Any) -> Moment:
        """`tree` with its tensors moved to their fixed places."""
        moves: list[tuple[Tensor, Tensor]] = []
        counts: dict[live.Path, int] = {}

        def place(path: live.Path, tensor: Any) -> Any:
            if isinstance(tensor, live.Count):
                counts[path] = tensor.value
                return tensor
            key = (path, tensor.shape, tensor.stride(), tensor.dtype)
            there = self.fixed.get(key)
            if there is None:
                there = self.fixed[key] = tensor.clone()
                self.fixed[path, there.shape, there.stride(), there.dtype] = there
            elif there is not tensor:
                if self.capture.active and tensor.device.type != self.capture.device.type:
                    raise NotCaptured(f"{path[-1]}, a tensor of the host, changes")
                moves.append((there, tensor))
            return there

        settled = live.replaced(tree, place)
        if moves:
            places = {_memory(each) for each in self.fixed.values()}
            # A value that lies in the place of another one must be read before that is written.
            copy_pairs(
                [(to, each.clone() if _memory(each) in places else each) for to, each in moves]
            )
        return Moment(live.form(settled), settled, counts)

    def _give_up(self, reason: str) -> None:
        self.failed = True
        self.recorded.clear()
        self.say(reason)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
