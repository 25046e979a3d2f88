"""One capture: a CUDA graph of a function's operations, with its stream, memory and generators."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor


class NotCaptured(RuntimeError):
    """A function has an operation that cannot be captured; nothing was computed."""


class Capture:
    """Captures functions as CUDA graphs that share one pool of memory.

    `generators` are further random generators of the device that the functions draw from; that of
    the device itself belongs to every graph. `graph` makes a `CUDAGraph`, or a stand-in for tests.
    """

    def __init__(
        self,
        device: torch.device,
        graph: Callable[[], Any],
        generators: tuple[torch.Generator, ...] = (),
    ) -> None:
        self.device, self.make, self.generators = device, graph, generators
        self.on_gpu = device.type == "cuda"
        self.active = False
        self.broken = False  # no graph may be replayed any more
        self._pool: Any = None
        self._stream: Any = None

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

    def __call__(self, function: Callable[[], Any]) -> tuple[Any, Any]:
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
            with self.beside(), self._no_waits():
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                self.active = True
                try:
                    found = function()
                except BaseException:
                    with suppress(RuntimeError):
                        self._end(graph)
                    raise
                finally:
                    self.active = False
                self._end(graph)
        except Exception as error:  # environments change the type of their errors
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise NotCaptured(lines[0][:200]) from error
        finally:
            if collected:
                gc.enable()
        return graph, found

    def _end(self, graph: Any) -> None:
        """End a capture. If CUDA refuses it, no graph is usable, and generators get new states.

        The old ones would wait for the end of the capture, and earlier graphs would go on with
        them: with other random numbers than the rest of the training.
        """
        try:
            graph.capture_end()
        except RuntimeError:
            self.broken = True
            if self.on_gpu:
                index = torch.cuda.current_device()
                index = index if self.device.index is None else self.device.index
                for each in (torch.cuda.default_generators[index], *self.generators):
                    each.graphsafe_set_state(each.clone_state())
            raise

    @contextmanager
    def _no_waits(self) -> Iterator[None]:
        """Make a wait for the device an error of torch, before the capture itself fails."""
        if not self.on_gpu:
            yield
            return
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is called a prototype
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)


def copy_pairs(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Copy the second tensor of each pair into the first one, in few operations."""
    if pairs:
        torch._foreach_copy_([to for to, _ in pairs], [each for _, each in pairs])
