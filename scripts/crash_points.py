"""Kills a process at one of its operations on files, before it or in the middle of it."""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable
from typing import Any

KILLED = 77
COUNT = "operations.txt"
# Functions of `os` that change a folder, or hand content to the disk.
CHANGES = ("rename", "replace", "unlink", "remove", "mkdir", "rmdir", "link", "fsync", "ftruncate")
CHANGES += ("posix_fallocate", "symlink")
# Operations with a first half; after any other one, the next operation is the next crash point.
DIVISIBLE = ("open", "write")


class _Counter:
    """Counts operations; at number `point` the process ends, with half of a write done."""

    def __init__(self, point: int, half: bool) -> None:
        self.point, self.half = point, half
        self.names: list[str] = []

    def next(self, name: str) -> bool:
        """Whether this operation is the one at which the process ends."""
        self.names.append(name)
        return len(self.names) - 1 == self.point

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of `os` that may be the last one. It has no half: the next one is after it."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self.next(function.__name__):
                os._exit(KILLED)
            return function(*args, **kwargs)

        return wrapped


def _patched_open(counter: _Counter) -> Callable[..., Any]:
    real = io.open

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        writing = isinstance(mode, str) and set(mode) & set("wxa+") and not isinstance(file, int)
        if writing and counter.next("open"):
            if counter.half:  # the file is there, with a part of its content
                with real(file, mode, *args, **kwargs) as torn:
                    torn.write(b"\0\1\2" if "b" in mode else "to")
            os._exit(KILLED)
        handle = real(file, mode, *args, **kwargs)
        if writing:
            _patch_write(handle, counter)
        return handle

    return opened


def _patch_write(handle: Any, counter: _Counter) -> None:
    """Count what reaches the file: a full buffer, a flush or the end of a file.

    Smaller writes stay in the process, and die with it. Half of an operation is its first half.
    """
    write, flush, close = handle.write, handle.flush, handle.close
    held: list[Any] = []

    def hand_over() -> None:
        if not held:
            return
        data = type(held[0])().join(held)
        held.clear()
        if counter.next("write"):
            if counter.half:
                write(data[: len(data) // 2])
                flush()
            os._exit(KILLED)
        write(data)

    def patched_write(data: Any) -> int:
        held.append(data if isinstance(data, str) else bytes(data))
        if sum(map(len, held)) >= io.DEFAULT_BUFFER_SIZE:
            hand_over()
        return len(data)

    def patched_flush() -> None:
        hand_over()
        flush()

    def patched_close() -> None:
        if not handle.closed:
            hand_over()
        close()

    handle.write, handle.flush, handle.close = patched_write, patched_flush, patched_close


def crash_at(work: Callable[[], int], point: int, half: bool) -> Callable[[], int]:
    """`work` in a process that ends at its operation `point`, with half of it done or nothing."""

    def crashing() -> int:
        counter = _Counter(point, half)
        for name in CHANGES:
            setattr(os, name, counter.wrap(getattr(os, name)))
        opened = _patched_open(counter)
        builtins.open = io.open = opened  # type: ignore[assignment]
        code = work()
        with open(COUNT, "w") as file:
            file.write(" ".join(counter.names))
        return code

    return crashing
