"""Import of modules and Python files that a user names as `MODULE:NAME` or `FILE.py:NAME`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from rlmem.errors import UsageError

# Modules that are imported for a user at the moment.
_importing: list[str] = []


def module_at(place: str, problem: str) -> ModuleType:
    """The module `place`, also in the current folder, or the Python file if it ends with `.py`.

    Raises `UsageError` if it cannot be imported; `problem` begins the error about a module.
    """
    if place.endswith(".py"):
        return _import_file(place)
    # The current folder is searched last.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return _imported(place, f"{problem}: cannot import {place!r}")


def place_of(found: Any) -> str | None:
    """The place of a class or function, `MODULE:NAME` or `FILE.py:NAME`; None if it has none.

    Only objects of a module can be imported; those made in functions and in notebooks cannot.
    """
    name = getattr(found, "__qualname__", "") or type(found).__qualname__
    module = sys.modules.get(getattr(found, "__module__", None) or "")
    if module is None or not name.isidentifier() or vars(module).get(name) is not found:
        return None
    spec, file = module.__spec__, getattr(module, "__file__", None)
    module_name = module.__name__ if spec is None else spec.name  # also of `python -m module`
    if module_name == "__main__" and file is None:
        return None
    installed = file is None or Path(file).is_relative_to(sysconfig.get_path("purelib"))
    if "." in module_name or installed:
        return f"{module_name}:{name}"
    path = Path(str(file)).resolve()
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{name}"


def being_imported() -> str | None:
    """The module that is imported for a user at the moment, or None."""
    return _importing[-1] if _importing else None


def _import_file(place: str) -> ModuleType:
    """Import a Python file as the module of its name, so that other processes can do it too."""
    path = Path(place).resolve()
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")])
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"there is no file {place!r}{hint}")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
        importlib.invalidate_caches()
    found = importlib.util.find_spec(path.stem)
    origin = found.origin if found else None
    if origin is None or not os.path.exists(origin) or not path.samefile(origin):
        raise UsageError(f"{place!r} cannot be imported, since {path.stem!r} is also {origin}")
    return _imported(path.stem, f"cannot import {place!r}")


def _imported(name: str, message: str) -> ModuleType:
    try:
        with _marked(name):
            return importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]:
            raise UsageError(f"{message}: no such module, also not in this folder") from error
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f" ({Path(last.filename).name}, line {last.lineno})"
        where = "" if last.filename.startswith("<") else place
        kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
        raise UsageError(f"{message}: {kind}{error}{where}") from error


@contextmanager
def _marked(name: str) -> Iterator[None]:
    _importing.append(name)
    try:
        yield
    finally:
        _importing.pop()
