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

Values of observations are converted if that does not change them (300.0 to uint8 would), and
refused otherwise. Floats are rounded to float32. Refused are also values outside of a discrete
space or outside of the bounds of a Box of integers, NaN and infinite values. The bounds of a Box of
floats are not checked, because observations of many environments exceed them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from rlmem.envs import refusals
from rlmem.envs.base import Spaces, Tensors
from rlmem.envs.refusals import Refused
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
        self.limit, self.bounds = _limit(self.space), _integer_bounds(source)

    def rows(self, batch: np.ndarray, checked: bool = False) -> np.ndarray:
        """Samples of `source` [N, ...] in the form of the tensors, without a copy if possible.

        If `checked`, raises `Refused` for a value that is not in the space. The bounds of a Box of
        floats are not checked.
        """
        rows = batch.reshape(len(batch), *self.shape)
        if checked and self.bounds is not None:
            low, high = self.bounds
            refusals.check(self.name, batch, (batch >= low) & (batch <= high), self.source)
        if self.dtype == np.float32:
            return refusals.as_float32(self.name, rows, checked)
        rows = rows.astype(self.dtype, copy=False)
        rows = rows if self.offset is None else rows - self.offset
        if checked and self.limit is not None:
            # As unsigned integers, negative ones are too great.
            wrong = rows.view(np.uint64) >= self.limit
            if np.count_nonzero(wrong):
                samples = batch.reshape(len(batch), *(self.source.shape or ()))
                fine = ~wrong.reshape(samples.shape)
                refusals.check(self.name, samples, fine, self.source)
        return rows


def _limit(space: gym.Space) -> np.ndarray | None:
    """The number of values of each entry of a discrete space; None for a Box."""
    if isinstance(space, Box):
        return None
    sizes = space.n if isinstance(space, Discrete) else getattr(space, "nvec", 2)
    return np.asarray(sizes, dtype=np.uint64)


def _integer_bounds(space: gym.Space) -> tuple[np.ndarray, np.ndarray] | None:
    """The bounds of a Box of integers; None for others, and for those of the dtype itself."""
    if not isinstance(space, Box) or np.dtype(space.dtype).kind not in "iu":
        return None
    limit = np.iinfo(space.dtype)
    if (space.low == limit.min).all() and (space.high == limit.max).all():
        return None
    return space.low, space.high


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
    """A gymnasium space as leaves; `spaces` maps their names to the spaces of the tensors.

    Without a `name`, the parts of a Dict have their own.
    """

    def __init__(self, name: str, source: gym.Space) -> None:
        self.root = name
        self.source = source
        self.leaves = [Leaf(*found) for found in _walk(name, (), source)]
        self.spaces: Spaces = {leaf.name: leaf.space for leaf in self.leaves}
        if not self.leaves:
            raise UsageError(f"space {name!r}: {source} is empty")
        if len(self.spaces) < len(self.leaves):
            names = ", ".join(leaf.name for leaf in self.leaves)
            raise UsageError(f"space {name!r}: two leaves have the same name ({names})")

    def read(self, batch: Any) -> Tensors:
        """N samples of a gymnasium vector environment as tensors [N, ...], without checks."""
        return self.tensors(self.leaf_batches(batch))

    def stack(self, samples: Sequence[Any]) -> Tensors:
        """A list of N samples as tensors [N, ...]; `Refused` for one outside of the space."""
        return self.tensors(self.columns(samples), check=True)

    def leaf_batches(self, batch: Any) -> dict[str, np.ndarray]:
        """The leaves of N samples of a gymnasium vector environment, by name."""
        return {leaf.name: _at(batch, leaf.path) for leaf in self.leaves}

    def columns(self, samples: Sequence[Any]) -> dict[str, np.ndarray]:
        """The leaves [N, ...] of N samples, by name, several times faster than gymnasium.

        Raises `Refused` for a sample with other parts, another shape, or a value that the dtype of
        the space cannot hold.
        """
        found: dict[str, np.ndarray] = {}
        _columns(self.root, self.source, samples, found)
        return found

    def tensors(self, columns: Mapping[str, np.ndarray], check: bool = False) -> Tensors:
        """Leaves as tensors; with `check`, `Refused` for a value outside of the space."""
        return {
            leaf.name: torch.from_numpy(leaf.rows(columns[leaf.name], check))
            for leaf in self.leaves
        }

    def nest(self, rows: Iterator[Any]) -> Any:
        """Values of the leaves, in their order, as nested dicts and tuples."""

        def build(space: gym.Space) -> Any:
            if isinstance(space, Dict):
                return {key: build(part) for key, part in space.items()}
            if isinstance(space, Tuple):
                return tuple(build(part) for part in space)
            return next(rows)

        return build(self.source)


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
        return rows[0] if len(rows) == 1 and not self.leaves[0].path else self.nest(iter(rows))

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
        yield from _walk(_below(name, key), (*path, key), part)


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _columns(
    name: str, space: gym.Space, samples: Sequence[Any], found: dict[str, np.ndarray]
) -> None:
    if isinstance(space, Dict):
        keys: Sequence[Any] = list(space.spaces)
    elif isinstance(space, Tuple):
        keys = range(len(space.spaces))
    else:
        found[name] = refusals.batch(name, space, samples)
        return
    try:
        fits = set(map(len, samples)) == {len(keys)}
        parts = [[sample[key] for sample in samples] for key in keys]
    except (KeyError, IndexError, TypeError):
        fits = False
    if not fits:
        _refuse_parts(name, keys, samples)
    for key, part in zip(keys, parts, strict=True):
        _columns(_below(name, key), space.spaces[key], part, found)


def _below(name: str, key: Any) -> str:
    return f"{name}.{key}" if name else str(key)


def _refuse_parts(name: str, keys: Sequence[Any], samples: Sequence[Any]) -> None:
    """Raises `Refused` for the first sample that does not have exactly the parts `keys`."""
    for row, sample in enumerate(samples):
        try:
            if len(sample) == len(keys) == len([sample[key] for key in keys]):
                continue
        except (KeyError, IndexError, TypeError):
            pass
        wanted = "a tuple of" if isinstance(keys, range) else "a dict of"
        given = f"of type {type(sample).__name__}"
        if isinstance(sample, Mapping | tuple | list):
            parts = sample if isinstance(sample, Mapping) else range(len(sample))
            given = f"a {type(sample).__name__} of {', '.join(map(str, parts)) or 'nothing'}"
        reason = f"{name} is {given}, not {wanted} {', '.join(map(str, keys))}"
        raise Refused(row, reason)
