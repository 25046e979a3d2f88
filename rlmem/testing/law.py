"""Laws: properties that every memory core must have, each with the cases that it is checked in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from rlmem.cores import MemoryCore
from rlmem.testing.rows import INPUT, OUTPUT


class NoClaim(Exception):
    """The core does not claim the property of a law."""


@dataclass(frozen=True)
class Subject:
    """A class of cores with options, of which laws make instances."""

    factory: Callable[..., MemoryCore[Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    def make(self, dtype: torch.dtype = torch.float32, **sizes: Any) -> MemoryCore[Any]:
        """A core whose parameters differ from their initial values, as after training."""
        core = self.factory(**{"input_size": INPUT, "output_size": OUTPUT, **self.options, **sizes})
        core.to(device=self.device, dtype=dtype)
        with torch.no_grad():
            for parameter in core.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return core


@dataclass(frozen=True)
class Case:
    """A law with the values of its parameters; called with a `Subject`, it raises if it is broken.

    An AssertionError tells the reason; `NoClaim` that the core does not claim the property.
    """

    law: Law
    values: Mapping[str, Any]

    def __call__(self, subject: Subject) -> None:
        self.law.check(subject, **self.values)

    def __str__(self) -> str:
        """The values, for people."""
        return ", ".join(_text(value) for value in self.values.values())


@dataclass(frozen=True)
class Law:
    """A property of cores: `check(subject, **values)` for all combinations of `parameters`.

    `traced` laws use a compiler, which takes seconds and refuses code with checks of types.
    """

    check: Callable[..., None]
    parameters: Mapping[str, tuple[Any, ...]]
    traced: bool

    @property
    def name(self) -> str:
        """The property, for people."""
        return self.check.__name__.replace("_", " ")

    def cases(self) -> Iterator[Case]:
        """All combinations of values."""
        for values in itertools.product(*self.parameters.values()):
            yield Case(self, dict(zip(self.parameters, values, strict=True)))


LAWS: list[Law] = []


def law(traced: bool = False, **parameters: tuple[Any, ...]) -> Callable[[Any], Any]:
    """Decorator that adds a function of a `Subject` to the laws."""

    def put(check: Callable[..., None]) -> Callable[..., None]:
        LAWS.append(Law(check, parameters, traced))
        return check

    return put


def _text(value: Any) -> str:
    return str(getattr(value, "__name__", value)).removeprefix("torch.")
