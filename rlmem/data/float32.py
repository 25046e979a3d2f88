"""Acting in float32 while a training runs under autocast."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def acts_in_float32(method: F) -> F:
    """Decorator for methods that step `self.env`: no autocast in there, whatever the caller has.

    Products of some rows do not get faster with it, and an environment may multiply matrices too.
    """

    @wraps(method)
    def call(self: Any, *arguments: Any) -> Any:
        with torch.autocast(self.env.device.type, enabled=False):
            return method(self, *arguments)

    return call  # type: ignore[return-value]
