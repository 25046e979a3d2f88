"""Operators for `torch.library`: a schema, and a form for each device.

`torch.library.custom_op` makes operators too, but they import torch's compiler at their first call,
which takes longer than all other imports of a training together. The rules for autograd, vmap and
tracing are registered with the functions of `torch.library`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._ops import OpOverload

F = TypeVar("F", bound=Callable[..., Any])

LIBRARY = torch.library.Library("rlmem", "FRAGMENT")
# Dispatch keys; None stands for all devices.
KEYS = {"cpu": "CPU", "cuda": "CUDA", None: "CompositeExplicitAutograd"}


def define(name: str, schema: str, device: str | None = None) -> Callable[[F], OpOverload]:
    """Decorator that makes the operator `rlmem::name` of its form on a device (None: on all)."""

    def make(form: F) -> OpOverload:
        LIBRARY.define(name + schema, tags=[torch.Tag.pt2_compliant_tag])
        operator: OpOverload = getattr(torch.ops.rlmem, name).default
        register_kernel(operator, device)(form)
        return operator

    return make


define_on_cpu = partial(define, device="cpu")


def register_kernel(operator: OpOverload, device: str | None) -> Callable[[F], F]:
    """Decorator for the form of an operator on a device."""

    def register(form: F) -> F:
        LIBRARY.impl(operator.name(), form, KEYS[device])
        return form

    return register


def refuse_autograd(operator: OpOverload) -> None:
    """Let the backward of an operator raise RuntimeError."""

    def backward(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(f"{operator.name()} has no derivative")

    torch.library.register_autograd(operator, backward)
