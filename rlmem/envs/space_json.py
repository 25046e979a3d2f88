"""Gymnasium spaces as JSON, so that a saved agent can be loaded without its environment."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple

from rlmem.errors import UsageError
from rlmem.spaces.unit_box import UnitBox

# Exceptions of Gymnasium and NumPy for impossible spaces.
FAULTS = (LookupError, TypeError, ValueError, ArithmeticError, AssertionError, RuntimeError)
# The most numbers in a part of a saved space: one image has less than a million.
MAX_NUMBERS = 2**24


def space_to_json(space: Space) -> dict[str, Any]:
    """A space as plain values; a `UsageError` for a kind of space that rlmem does not support."""
    if isinstance(space, Box):
        bounds = {"low": _numbers(space.low), "high": _numbers(space.high)}
        unit = {"unit": True} if isinstance(space, UnitBox) else {}
        return {"box": list(space.shape), "dtype": str(space.dtype), **bounds, **unit}
    if isinstance(space, Discrete):
        return {"discrete": int(space.n), "start": int(space.start)}
    if isinstance(space, MultiDiscrete):
        return {"multi_discrete": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, MultiBinary):
        # `n` is a number or a shape, and equality tells the two apart.
        if isinstance(space.n, int | np.integer):
            return {"multi_binary": int(space.n)}
        return {"multi_binary": [int(n) for n in space.shape]}
    if isinstance(space, Tuple):
        return {"tuple": [space_to_json(part) for part in space]}
    if isinstance(space, Dict):
        # A list of pairs: the order of the keys is that of the leaves.
        return {"dict": [[key, space_to_json(part)] for key, part in space.items()]}
    raise UsageError(f"space {space} cannot be saved")


def space_from_json(data: Any) -> Space:
    """The space that `space_to_json` wrote; a `UsageError` for other data."""
    try:
        return _read(data)
    except FAULTS as error:
        raise UsageError(f"not a saved space: {str(data)[:80]}") from error


def _read(data: dict[str, Any]) -> Space:
    if "box" in data:
        shape, dtype = tuple(data["box"]), np.dtype(data["dtype"])
        if math.prod(shape) > MAX_NUMBERS or dtype.kind not in "fiub":
            raise ValueError(f"a box of shape {shape} and type {dtype}")
        low, high = (np.array(_from_text(data[key]), dtype) for key in ("low", "high"))
        kind = UnitBox if data.get("unit") else Box
        return kind(np.broadcast_to(low, shape), np.broadcast_to(high, shape), shape, dtype.type)
    if "discrete" in data:
        return Discrete(data["discrete"], start=data["start"])
    if "multi_discrete" in data:
        return MultiDiscrete(np.array(data["multi_discrete"]), start=np.array(data["start"]))
    if "multi_binary" in data:
        if np.prod(data["multi_binary"], dtype=float) > MAX_NUMBERS:
            raise ValueError("too many numbers")
        return MultiBinary(data["multi_binary"])
    if "tuple" in data:
        return Tuple([_read(part) for part in data["tuple"]])
    # Pairs: from a dict Gymnasium would sort the keys, and the leaves would change places.
    return Dict([(key, _read(part)) for key, part in data["dict"]])


def _numbers(bounds: np.ndarray) -> Any:
    """One number if all bounds are equal (images are large), else a nested list."""
    if bounds.size and (bounds == bounds.flat[0]).all():
        return _to_text(bounds.flat[0].item())
    return _to_text(bounds.tolist())


def _to_text(value: Any) -> Any:
    """Infinities as text: JSON has no word for them."""
    if isinstance(value, list):
        return [_to_text(entry) for entry in value]
    return str(value) if value in (np.inf, -np.inf) else value


def _from_text(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_text(entry) for entry in value]
    return float(value) if isinstance(value, str) else value
