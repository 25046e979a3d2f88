"""CUDA graphs: the operations of a function, captured once and replayed without their launches.

A graph reads and writes fixed addresses. `Call` is for functions of tensors: their arguments are
copied into fixed tensors. `Steps` is for steps that change live values (see `live`): these are
moved into fixed tensors, and there is one graph for each combination of the host's numbers. The
first visits run without a graph, on the stream of the captures, so that everything that is made at
a first call exists (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).

Random numbers of the device's own generator are those of a run without graphs: a replay advances it
as the operations do.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlmem.compiled import live

WARM_UP = 2  # calls of a function before it is captured
MOST_SHAPES = 8  # of the arguments of a function
MOST_GRAPHS = 512  # of a step


class NotCaptured(RuntimeError):
    """A function has an operation that cannot be captured; nothing was computed."""


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


class Graphs:
    """Captures functions as CUDA graphs that share one pool of memory.

    `generators` are further random generators of the device that the functions draw from. `say` is
    called once for each part that cannot be captured. Another class than `CUDAGraph` is for tests.
    """

    def __init__(
        self,
        device: torch.device,
        graph: Callable[[], Any] = torch.cuda.CUDAGraph,
        say: Callable[[str], None] = _to_stderr,
        generators: tuple[torch.Generator, ...] = (),
    ) -> None:
        self.device, self.make, self.say, self.generators = device, graph, say, generators
        self.on_gpu = device.type == "cuda"
        self.capturing = False
        self._pool: Any = None
        self._stream: Any = None

    def forward(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A part of a captured function, as it is."""
        return function

    def call(self, name: str, obstacle: str | None = None) -> Call | None:
        """Captures functions of tensors; `name` is their word in messages.

        With an `obstacle`, a reason against it, that is said, and nothing is captured.
        """
        return Call(self, name) if self._goes(name, obstacle) else None

    def steps(self, name: str, obstacle: str | None = None) -> Steps | None:
        """Captures a step that changes live values; `name` and `obstacle` as in `call`."""
        return Steps(self, name) if self._goes(name, obstacle) else None

    def not_captured(self, name: str, reason: str) -> None:
        """Say that a part runs without a graph."""
        self.say(f"no CUDA graph of {name}: {reason}")

    def _goes(self, name: str, obstacle: str | None) -> bool:
        if obstacle is not None:
            self.not_captured(name, obstacle)
        return obstacle is None

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Run the block on the stream of the captures, between the work before and after it."""
        if not self.on_gpu:
            yield
            return
        here = torch.cuda.current_stream(self.device)
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)
        self._stream.wait_stream(here)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            here.wait_stream(self._stream)

    def capture(self, function: Callable[[], Any]) -> tuple[Any, Any]:
        """A graph of `function`, which is not computed, and its result; raises `NotCaptured`."""
        if self.on_gpu and self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = self.make()
        for generator in self.generators:
            graph.register_generator_state(generator)
        collected = gc.isenabled()
        # The collector might free a tensor or graph with a call that no capture allows.
        gc.disable()
        try:
            with self.beside():
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                self.capturing = True
                try:
                    found = function()
                except BaseException:
                    with suppress(RuntimeError):
                        graph.capture_end()
                    raise
                finally:
                    self.capturing = False
                graph.capture_end()
        except Exception as error:  # environments change the type of their errors
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise NotCaptured(lines[0][:200]) from error
        finally:
            if collected:
                gc.enable()
        return graph, found


class Call:
    """Functions of tensors, captured for each function and shape of its arguments.

    Arguments that are no tensors are constants, told apart by identity if they have no hash.
    """

    def __init__(self, graphs: Graphs, name: str) -> None:
        self.graphs, self.name = graphs, name
        self.entries: dict[Hashable, _Entry] = {}
        self.failed = False

    def __call__(self, function: Callable[..., Any], *given: Any) -> Any:
        """`function(*given)`: tensors, or tuples and dicts of them, which later calls keep."""
        if self.failed:
            return function(*given)
        key = (function, *(_argument(each) for each in given))
        entry = self.entries.get(key)
        if entry is None:
            if len(self.entries) == MOST_SHAPES:
                return self._give_up("its arguments change their shapes", function, given)
            fixed = [each.clone() if isinstance(each, Tensor) else each for each in given]
            entry = self.entries[key] = _Entry(fixed)
        pairs = zip(entry.given, given, strict=True)
        _copy([(a, b) for a, b in pairs if isinstance(a, Tensor)])
        if entry.visits < WARM_UP:
            entry.visits += 1
            with self.graphs.beside():
                return function(*entry.given)
        if entry.graph is None:
            try:
                entry.graph, entry.found = self.graphs.capture(lambda: function(*entry.given))
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
        self.graphs.not_captured(self.name, reason)
        return function(*given)


class _Entry:
    """A function with fixed arguments, its graph once it is captured, and its fixed results."""

    def __init__(self, given: list[Any]) -> None:
        self.given = given
        self.visits = 0
        self.graph: Any = None
        self.found: Any = None


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

    The first step with a combination runs without a graph, the second one is captured.
    """

    def __init__(self, graphs: Graphs, name: str) -> None:
        self.graphs, self.name = graphs, name
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
        if not self.failed:
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
            with self.graphs.beside():
                return whole()
        graph, after = self.graphs.capture(whole)
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
                if self.graphs.capturing and tensor.device.type != self.graphs.device.type:
                    raise NotCaptured(f"{path[-1]}, a tensor of the host, changes")
                moves.append((there, tensor))
            return there

        settled = live.replaced(tree, place)
        if moves:
            places = {_memory(each) for each in self.fixed.values()}
            # A value that lies in the place of another one must be read before that is written.
            _copy([(to, each.clone() if _memory(each) in places else each) for to, each in moves])
        return Moment(live.form(settled), settled, counts)

    def _give_up(self, reason: str) -> None:
        self.failed = True
        self.recorded.clear()
        self.graphs.not_captured(self.name, reason)


def _copy(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Copy the second tensor of each pair into the first one, in few operations."""
    if pairs:
        torch._foreach_copy_([to for to, _ in pairs], [each for _, each in pairs])


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _argument(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    return value if isinstance(value, Hashable) else id(value)
