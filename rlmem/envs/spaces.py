"""Gymnasium spaces as flat dictionaries of leaves, with batches of samples as tensors.

The leaves of a space named `obs` are `obs` for a plain space, `obs.0`, `obs.1` for a Tuple and
`obs.key` for a Dict, recursively. The tensors of a leaf for N rows:

| space               | tensor               | leaf space                                |
|---------------------|----------------------|-------------------------------------------|
| Discrete            | int64 [N]            | Discrete from 0: `start` is subtracted    |
| MultiDiscrete       | int64 [N, k]         | MultiDiscrete of one dimension, from 0    |
| MultiBinary         | int64 [N, k]         | MultiBinary of one dimension              |
| Box of uint8        | uint8 [N, *shape]    | the same (an image)                       |
| Box of other dtypes | float32 [N, *shape]  | Box of float32                            |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from rlmem.envs.base import Spaces, Tensors
from rlmem.errors import UsageError

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, and Tuple and Dict of them"


class Leaf:
    """A leaf: its original space (`source`) and the space of its tensors (`space`).

    Raises `UsageError` for a space that has no tensor form.
    """

    def __init__(self, name: str, path: tuple[Any, ...], source: gym.Space) -> None:
        self.name = name
        self.path = path
        self.source = source
        self.space, self.offset = _tensor_space(name, source)
        self.shape = tuple(self.space.shape or ())
        is_uint8 = isinstance(source, Box) and source.dtype == np.uint8
        is_number = isinstance(source, Box) and not is_uint8
        self.dtype = np.dtype(np.uint8 if is_uint8 else np.float32 if is_number else np.int64)

    def read(self, batch: np.ndarray) -> torch.Tensor:
        """Samples of `source` [N, ...] as a tensor, which shares their memory if possible."""
        rows = batch.reshape(len(batch), *self.shape).astype(self.dtype, copy=False)
        if self.offset is not None:
            rows = rows - self.offset
        return torch.from_numpy(rows)


def _tensor_space(name: str, space: gym.Space) -> tuple[gym.Space, np.ndarray | None]:
    """The space of a leaf's tensors, and the offset to subtract from samples (or None)."""
    if isinstance(space, Discrete):
        offset = np.asarray(space.start, dtype=np.int64)
        return Discrete(int(space.n)), offset if offset else None
    if isinstance(space, MultiDiscrete):
        offset = space.start.astype(np.int64).flatten()
        return MultiDiscrete(space.nvec.flatten()), offset if offset.any() else None
    if isinstance(space, MultiBinary):
        return MultiBinary(int(np.prod(space.shape))), None
    if isinstance(space, Box):
        if space.dtype in (np.uint8, np.float32):
            return space, None
        with np.errstate(over="ignore"):
            low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        return Box(low, high, dtype=np.float32), None
    raise UsageError(f"space {name!r}: {space} is not supported (supported: {SUPPORTED})")


class FlatSpace:
    """A gymnasium space as leaves; `spaces` maps their names to the spaces of the tensors."""

    def __init__(self, name: str, source: gym.Space) -> None:
        self.source = source
        self.leaves = [Leaf(*found) for found in _walk(name, (), source)]
        self.spaces: Spaces = {leaf.name: leaf.space for leaf in self.leaves}
        if not self.leaves:
            raise UsageError(f"space {name!r}: {source} is empty")
        if len(self.spaces) < len(self.leaves):
            names = ", ".join(leaf.name for leaf in self.leaves)
            raise UsageError(f"space {name!r}: two leaves have the same name ({names})")

    def read(self, batch: Any) -> Tensors:
        """N samples of a gymnasium vector environment as tensors [N, ...]."""
        return {leaf.name: leaf.read(_at(batch, leaf.path)) for leaf in self.leaves}

    def stack(self, samples: Sequence[Any]) -> Tensors:
        """A list of N samples as tensors [N, ...]."""
        return self.read(batch(self.source, samples))


class ActionSpace(FlatSpace):
    """A space whose tensors are checked and converted back to samples.

    Boxes must have float dtypes: for others the outputs of a policy would have to be rounded.
    """

    def __init__(self, name: str, source: gym.Space) -> None:
        super().__init__(name, source)
        self.bounds = [_bounds(leaf) for leaf in self.leaves]

    def write(self, tensors: Tensors, num_rows: int) -> Any:
        """Tensors [N, ...] as actions for a gymnasium vector environment; always a copy.

        Raises the errors of `check_form`, and ValueError for a value out of range (also NaN, inf).
        """
        self.check_form(tensors, num_rows)
        leaves = zip(self.leaves, self.bounds, strict=True)
        rows = [_write(leaf, bounds, tensors[leaf.name], num_rows) for leaf, bounds in leaves]
        return rows[0] if len(rows) == 1 and not self.leaves[0].path else self._nest(iter(rows))

    def check(self, tensors: Tensors, num_rows: int) -> None:
        """Raises the errors of `write`, in half the time."""
        self.check_form(tensors, num_rows)
        for leaf, bounds in zip(self.leaves, self.bounds, strict=True):
            _rows(leaf, bounds, tensors[leaf.name], num_rows)

    def forms(self, num_rows: int) -> dict[str, tuple[tuple[torch.dtype, ...], tuple[int, ...]]]:
        """The allowed dtypes and the shape of each leaf's tensor, by the leaf's name."""
        return {leaf.name: (_dtypes(leaf), (num_rows, *leaf.shape)) for leaf in self.leaves}

    def check_form(self, tensors: Tensors, num_rows: int) -> None:
        """Checks names, shapes and dtypes, but no values.

        Raises ValueError, which names the space, for a missing or unknown leaf, a wrong shape or
        dtype.
        """
        if tensors.keys() != self.spaces.keys():
            raise ValueError(
                f"actions must have the keys {', '.join(self.spaces)} of {self.source}, "
                f"not {', '.join(tensors) or 'none'}"
            )
        for leaf in self.leaves:
            tensor = tensors[leaf.name]
            if tensor.dtype not in _dtypes(leaf):
                raise _wrong(leaf, f"dtype {leaf.dtype}, not {tensor.dtype}")
            if tensor.shape != (num_rows, *leaf.shape):
                raise _wrong(leaf, f"shape {[num_rows, *leaf.shape]}, not {list(tensor.shape)}")

    def _nest(self, rows: Iterator[np.ndarray]) -> Any:
        def build(space: gym.Space) -> Any:
            if isinstance(space, Dict):
                return {key: build(part) for key, part in space.items()}
            if isinstance(space, Tuple):
                return tuple(build(part) for part in space)
            return next(rows)

        return build(self.source)


def _dtypes(leaf: Leaf) -> tuple[torch.dtype, ...]:
    return FLOATS if leaf.dtype.kind == "f" else INTEGERS


def _bounds(leaf: Leaf) -> tuple[np.ndarray, np.ndarray]:
    """The finite lower and upper bounds of each entry of a leaf's tensors."""
    space = leaf.space
    if isinstance(space, Box):
        if np.dtype(leaf.source.dtype).kind != "f":
            raise UsageError(
                f"action space {leaf.name!r}: {leaf.source} is not supported "
                f"(supported: {SUPPORTED}; a Box of floats)"
            )
        limit = np.finfo(np.float32)
        low, high = space.low.clip(min=limit.min), space.high.clip(max=limit.max)
        return np.asarray(low), np.asarray(high)
    if isinstance(space, Discrete):
        high = np.asarray(space.n - 1)
    else:
        high = space.nvec - 1 if isinstance(space, MultiDiscrete) else np.ones(leaf.shape, int)
    return np.zeros_like(high), high


def _rows(
    leaf: Leaf, bounds: tuple[np.ndarray, np.ndarray], tensor: torch.Tensor, num_rows: int
) -> np.ndarray:
    """A tensor as an array; ValueError if a value is out of range."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    rows = tensor.detach().cpu().numpy()
    low, high = bounds
    inside = (rows >= low) & (rows <= high)
    if not inside.all():
        row = int(np.flatnonzero(~inside.reshape(num_rows, -1).all(axis=1))[0])
        raise _wrong(leaf, f"values in range: row {row} is {rows[row].tolist()}")
    return rows


def _write(
    leaf: Leaf, bounds: tuple[np.ndarray, np.ndarray], tensor: torch.Tensor, num_rows: int
) -> np.ndarray:
    rows = _rows(leaf, bounds, tensor, num_rows)
    if leaf.offset is not None:
        rows = rows + leaf.offset
    rows = rows.astype(leaf.source.dtype).reshape(num_rows, *(leaf.source.shape or ()))
    if isinstance(leaf.source, Box) and leaf.source.dtype != np.float32:
        # Rounding to float32 may have widened the bounds.
        np.clip(rows, leaf.source.low, leaf.source.high, out=rows)
    return rows


def _wrong(leaf: Leaf, expected: str) -> ValueError:
    return ValueError(f"{leaf.name!r} is not in {leaf.source}: expected {expected}")


def _walk(
    name: str, path: tuple[Any, ...], space: gym.Space
) -> Iterator[tuple[str, tuple[Any, ...], gym.Space]]:
    if not isinstance(space, Dict | Tuple):
        yield name, path, space
        return
    parts: Iterable[tuple[Any, gym.Space]] = (
        space.items() if isinstance(space, Dict) else enumerate(space)
    )
    for key, part in parts:
        yield from _walk(f"{name}.{key}", (*path, key), part)


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def batch(space: gym.Space, samples: Sequence[Any]) -> Any:
    """N samples as one batch, like gymnasium's `concatenate`, but several times faster.

    Raises ValueError or TypeError if a sample's shape or kind does not match the space.
    """
    if isinstance(space, Dict):
        return {k: batch(part, [sample[k] for sample in samples]) for k, part in space.items()}
    if isinstance(space, Tuple):
        return tuple(batch(part, [sample[i] for sample in samples]) for i, part in enumerate(space))
    rows = np.array(samples)
    if rows.shape[1:] != space.shape:
        raise ValueError(f"an observation of shape {rows.shape[1:]} is not in {space}")
    return rows.astype(space.dtype, casting="same_kind", copy=False)
