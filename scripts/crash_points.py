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


class _Counter:
    """Counts operations; at number `point` the process ends, with half of a write done."""

    def __init__(self, point: int, half: bool) -> None:
        self.point, self.half, self.now = point, half, 0

    def next(self) -> bool:
        """Whether this is the operation at which the process ends."""
        self.now += 1
        return self.now - 1 == self.point

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of `os` that may be the last one."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self.next():
                if self.half:  # after the operation, before anything that follows
                    function(*args, **kwargs)
                os._exit(KILLED)
            return function(*args, **kwargs)

        return wrapped


def _patched_open(counter: _Counter) -> Callable[..., Any]:
    real = io.open

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        writing = isinstance(mode, str) and set(mode) & set("wxa+") and not isinstance(file, int)
        if writing and counter.next():
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
    """Count the writes of a file; half of one is its first half."""
    real = handle.write

    def write(data: Any) -> Any:
        if counter.next():
            if counter.half:
                real(data[: len(data) // 2])
                handle.flush()
            os._exit(KILLED)
        return real(data)

    try:
        handle.write = write
    except AttributeError:  # a binary file has no place for it
        return


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
            file.write(str(counter.now))
        return code

    return crashing
