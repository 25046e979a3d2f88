"""A shelf of things made by name: cores, environments and algorithms each hang one here."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from rlmem.errors import UsageError, unknown

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Registry(Generic[T]):
    """Factories by name, found in the modules of one package and in an entry point group.

    Nothing is imported before the first question, so that a package can hold its registry without
    importing what hangs on it. A new entry is one file in the package; a third party adds one with
    an entry point `name = module` (importing it must call `register`) in the group of that name.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._factories: dict[str, Callable[..., T]] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[F], F]:
        """Decorator that puts a class or function on the shelf; a name taken is a ValueError."""

        def put(factory: F) -> F:
            if name in self._factories:
                taken = self._factories[name]
                raise ValueError(f"{self.kind} {name!r} is already registered by {taken!r}")
            self._factories[name] = factory
            return factory

        return put

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._discover()
        return sorted(self._factories)

    def get(self, name: str) -> Callable[..., T]:
        """The factory of that name; a `UsageError` with the nearest names if there is none."""
        self._discover()
        if name not in self._factories:
            raise unknown(self.kind, name, self._factories)
        return self._factories[name]

    def make(self, name: str, /, **kwargs: Any) -> T:
        """Call the factory of that name; a keyword it does not take is a `UsageError`."""
        factory = self.get(name)
        allowed = parameters(factory)
        for key in kwargs:
            if key not in allowed:
                raise unknown(f"option of {self.kind} {name!r}:", key, allowed)
        missing = [k for k, required in allowed.items() if required and k not in kwargs]
        if missing:
            raise UsageError(f"{self.kind} {name!r} needs {', '.join(missing)}")
        return factory(**kwargs)

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        package = importlib.import_module(self.package)
        for module in pkgutil.walk_packages(package.__path__, self.package + "."):
            importlib.import_module(module.name)
        for entry in entry_points(group=self.package):
            entry.load()


def parameters(factory: Callable[..., Any]) -> dict[str, bool]:
    """Keyword names that `factory` takes, each with whether it must be given."""
    return {
        name: parameter.default is inspect.Parameter.empty
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
