"""Registry: cores, encoders, environments and algorithms by name."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Generic, NamedTuple, TypeVar

from rlmem.errors import UsageError, unknown
from rlmem.options import check, declared_types, like

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

# Stands for the default of an option that must be given.
REQUIRED = inspect.Parameter.empty


class Entry(NamedTuple):
    """A registered factory; its options, or None for those of its signature."""

    factory: Callable[..., Any]
    options: Mapping[str, Any] | None


class Registry(Generic[T]):
    """Factories by name, found in the modules of one package and in an entry point group.

    Nothing is imported before the first query, so a package can hold its registry without importing
    the registered modules. A name is looked for in the module of that name first. A new entry is
    one file in the package. A third party adds one with an entry point `name = module` in the group
    `group`, by default named like the package; importing the module must call `register`.
    """

    def __init__(self, kind: str, package: str, group: str | None = None) -> None:
        self.kind = kind
        self.package = package
        self.group = group or package
        self._entries: dict[str, Entry] = {}
        self._discovered = False

    def register(self, name: str, options: Mapping[str, Any] | None = None) -> Callable[[F], F]:
        """Decorator that registers a class or function; a ValueError if the name is taken.

        `options` maps the keywords that the factory takes to their defaults (`REQUIRED` for none).
        Without it they are read from the factory's signature.
        """

        def put(factory: F) -> F:
            if name in self._entries:
                taken = self._entries[name].factory
                raise ValueError(f"{self.kind} {name!r} is already registered by {taken!r}")
            self._entries[name] = Entry(factory, options)
            return factory

        return put

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._discover()
        return sorted(self._entries)

    def get(self, name: str) -> Callable[..., T]:
        """The factory of that name; a `UsageError` with the nearest names if there is none."""
        return self._entry(name).factory

    def options(self, name: str) -> dict[str, Any]:
        """The keywords that the factory of that name takes, each with its default or `REQUIRED`."""
        entry = self._entry(name)
        return options_of(entry.factory) if entry.options is None else dict(entry.options)

    def make(self, name: str, /, **kwargs: Any) -> T:
        """Call the factory of that name.

        Raises `UsageError` for a keyword that it does not take, and for a value of another type or
        out of its range.
        """
        factory, allowed = self.get(name), self.options(name)
        for key in kwargs:
            if key not in allowed:
                raise unknown(f"option of {self.kind} {name!r}:", key, allowed)
        missing = [k for k, default in allowed.items() if default is REQUIRED and k not in kwargs]
        if missing:
            raise UsageError(f"{self.kind} {name!r} needs {', '.join(missing)}")
        declared = {**like(allowed), **declared_types(factory)}
        check(f"option of {self.kind} {name!r}: ", kwargs, declared)
        return factory(**kwargs)

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            self._import_own(name)
        if name not in self._entries:
            self._discover()
        if name not in self._entries:
            raise unknown(self.kind, name, self._entries)
        return self._entries[name]

    def _import_own(self, name: str) -> None:
        """Import the module of this name, which takes much less time than all of them.

        `a-b-c` is the module `a_b_c`, or `b_c` in the package `a`.
        """
        first, _, rest = name.replace("-", "_").partition("_")
        for path in ([f"{first}_{rest}"], [first, rest]) if rest else ([first],):
            if all(part.isidentifier() for part in path) and self._has_module(path):
                importlib.import_module(".".join([self.package, *path]))
                return

    def _has_module(self, path: Sequence[str]) -> bool:
        """Whether the package has the module at `path`; imports only the packages above it."""
        for end in range(1, len(path) + 1):
            spec = importlib.util.find_spec(".".join([self.package, *path[:end]]))
            if spec is None or (end < len(path) and spec.submodule_search_locations is None):
                return False
        return True

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        package = importlib.import_module(self.package)
        for module in pkgutil.walk_packages(package.__path__, self.package + "."):
            importlib.import_module(module.name)
        for entry in entry_points(group=self.group):
            entry.load()


def options_of(factory: Callable[..., Any]) -> dict[str, Any]:
    """The named keywords of a signature, each with its default or `REQUIRED`."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
