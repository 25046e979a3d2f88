"""Python's collector of reference cycles at the start and at the end of a command.

torch and the options make a million objects that stay. The collector searches them again and again
during the imports, and once more when Python exits: 0.25 s and 0.5 s of CPU time.
"""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Packages bound with nanobind, which prints a warning for each function that Python does not free.
NANOBIND = ("triton", "jaxlib", "mlx")
# Whether `paused` has disabled the collector.
_paused = False


@contextmanager
def paused() -> Iterator[None]:
    """No collection before `resume`, or before the end; then the collector is as before.

    At the exit of Python, objects in cycles are left to the system.
    """
    global _paused
    atexit.unregister(_skip_last_search)
    atexit.register(_skip_last_search)
    _paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if _paused:
            gc.enable()
        _paused = False
        gc.unfreeze()


def resume() -> None:
    """End the pause, if there is one: the modules are imported.

    Collections skip their objects until the command ends.
    """
    global _paused
    if _paused:
        gc.freeze()
        gc.enable()
        _paused = False


def _skip_last_search() -> None:
    if not any(name in sys.modules for name in NANOBIND):
        gc.freeze()
