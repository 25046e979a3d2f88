"""The ways to run the two parts of a training: `compile=auto|none|graphs|inductor`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from rlmem.compiled.calls import Call
from rlmem.compiled.steps import Steps
from rlmem.errors import unknown

MODES = ("auto", "none", "graphs", "inductor")


def check(mode: object) -> str:
    """`mode` as one of `MODES`; else a `UsageError`. None, a word of YAML too, is `none`."""
    name = "none" if mode is None else str(mode)
    if name not in MODES:
        raise unknown("compile", name, MODES)
    return name


class Compiler(Protocol):
    """Runs the step of collecting and the minibatch of an algorithm in another way."""

    def forward(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The policy's step, or a loss: a function without changes to anything."""
        ...

    def call(self, name: str, obstacle: str | None = None) -> Call | None:
        """Runs whole minibatches, if this compiler does and there is no obstacle to it."""
        ...

    def steps(self, name: str, obstacle: str | None = None) -> Steps | None:
        """Runs whole steps of collecting, if this compiler does and there is no obstacle to it."""
        ...


class Inductor:
    """torch.compile for the policy's step and the loss, with its backward pass.

    Environment, writes and optimizer run as before. Results are equal to rounding.
    """

    def __init__(self) -> None:
        self.compiled: dict[Any, Callable[..., Any]] = {}

    def forward(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, compiled at its first call for each shape of its arguments."""
        import torch

        if function not in self.compiled:
            # Otherwise a compiled function draws other random numbers.
            options: dict[str, Any] = {"fallback_random": True}
            self.compiled[function] = torch.compile(function, options=options)
        return self.compiled[function]

    def call(self, name: str, obstacle: str | None = None) -> None:
        """Minibatches as a whole are not compiled."""

    def steps(self, name: str, obstacle: str | None = None) -> None:
        """Steps of collecting as a whole are not compiled."""
