"""Operators for `torch.library`: a schema, forms by device, and rules for autograd and vmap.

`torch.library.custom_op` makes the same, but its operators import torch's compiler at their first
call, which takes longer than all other imports of a training together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])

LIBRARY = torch.library.Library("rlmem", "FRAGMENT")
# Dispatch keys; None stands for all devices.
KEYS = {"cpu": "CPU", "cuda": "CUDA", None: "CompositeExplicitAutograd"}


class Operator:
    """The operator `rlmem::name`; without a rule for autograd its backward is a RuntimeError."""

    def __init__(self, name: str, schema: str) -> None:
        LIBRARY.define(name + schema, tags=[torch.Tag.pt2_compliant_tag])
        self.name = name
        self.overload: torch._ops.OpOverload = getattr(torch.ops.rlmem, name).default
        self._rule: tuple[Callable[..., Any], Callable[..., Any]] | None = None
        torch.library.register_autograd(
            f"rlmem::{name}", self._backward, setup_context=self._setup, lib=LIBRARY
        )

    def __call__(self, *arguments: Any) -> Any:
        return self.overload(*arguments)

    def register_kernel(self, device: str | None) -> Callable[[F], F]:
        """Decorator for the form on a device."""

        def register(form: F) -> F:
            LIBRARY.impl(self.name, form, KEYS[device])
            return form

        return register

    def register_fake(self, form: F) -> F:
        """Decorator for the form without values, which gives shapes and dtypes only."""
        torch.library.register_fake(f"rlmem::{self.name}", form, lib=LIBRARY)
        return form

    def register_autograd(
        self, backward: Callable[..., Any], *, setup_context: Callable[..., Any]
    ) -> None:
        """Set the backward, and the function that saves tensors for it."""
        self._rule = backward, setup_context

    def register_vmap(self, rule: F) -> F:
        """Decorator for the rule of `torch.vmap`."""
        torch.library.register_vmap(f"rlmem::{self.name}", rule, lib=LIBRARY)
        return rule

    def register_autocast(self, device: str, dtype: torch.dtype) -> None:
        """Under autocast on `device`, cast floating inputs to `dtype`."""
        torch.library.register_autocast(f"rlmem::{self.name}", device, dtype, lib=LIBRARY)

    def _setup(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        if self._rule is not None:
            self._rule[1](ctx, inputs, output)

    def _backward(self, ctx: Any, *grads: Any) -> Any:
        if self._rule is None:
            raise RuntimeError(f"{self.overload} has no rule for autograd")
        return self._rule[0](ctx, *grads)


def define(name: str, schema: str, device: str | None = None) -> Callable[[F], Operator]:
    """Decorator that makes an operator of its form on a device (None: on all devices)."""

    def make(form: F) -> Operator:
        operator = Operator(name, schema)
        operator.register_kernel(device)(form)
        return operator

    return make


define_on_cpu = partial(define, device="cpu")
