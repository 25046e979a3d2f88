"""Constants on every device: made once, since a copy to a GPU waits for it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


class Constant:
    """A tensor of Python's numbers on each device that asks for it; it is never written to.

    Without a `dtype` it has torch's default: int64 for integers, float32 for floats.
    """

    def __init__(self, values: Any, dtype: torch.dtype | None = None) -> None:
        self.values, self.dtype = values, dtype
        self._made: dict[torch.device, Tensor] = {}

    def on(self, device: torch.device) -> Tensor:
        """The tensor on a device."""
        found = self._made.get(device)
        if found is None:
            found = torch.tensor(self.values, dtype=self.dtype, device=device)
            self._made[device] = found
        return found


@lru_cache(maxsize=256)
def constant(values: tuple[Any, ...], dtype: torch.dtype | None = None) -> Constant:
    """The same `Constant` for the same few values."""
    return Constant(values, dtype)
