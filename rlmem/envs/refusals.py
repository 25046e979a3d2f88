"""Conversion of values from environments to arrays; refusals of values that do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Space
from numpy.typing import NDArray

from rlmem.errors import UsageError

KINDS = "biuf"  # numpy's kinds of booleans, integers and floats
# Longer values are shown by their first wrong entry, and longer spaces are shortened.
SHOWN_ENTRIES, SHOWN_SPACE = 16, 120
# If a sum of squares is below, all of its terms are finite, even in float32.
FINITE = 1e38


class Refused(UsageError):
    """A value that an environment must not give; `row` is its row in the batch."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row = row

    def at(self, env: int, step: int) -> UsageError:
        """The error with the index of the environment, and the step since the last reset."""
        reset = " (reset)" if step == 0 else ""
        return UsageError(f"environment {env}, step {step}{reset}: {self}")


def short(space: Space) -> str:
    """A space as one line that is not too long."""
    text = " ".join(str(space).split())
    if len(text) <= SHOWN_SPACE:
        return text
    return f"{type(space).__name__}(..., {space.shape}, {space.dtype})"


def batch(name: str, space: Space, samples: Sequence[Any]) -> NDArray[Any]:
    """N samples of a space without parts as an array [N, ...] of the space's dtype.

    Raises `Refused` for a sample of another shape, or with a value that the conversion would
    change. Floats may be rounded to a float space.
    """
    assert space.shape is not None
    assert space.dtype is not None
    try:
        rows = np.array(samples)
    except ValueError:  # different shapes
        rows = np.empty(())
    if rows.shape != (len(samples), *space.shape) or rows.dtype.kind not in KINDS:
        rows = _rows(name, space.shape, samples, space)
    return rows if rows.dtype == space.dtype else _cast(name, rows, np.dtype(space.dtype), space)


def rewards(values: Sequence[Any]) -> NDArray[np.float64]:
    """N rewards, numbers or arrays with one entry, as an array [N]; others raise `Refused`."""
    return _scalars("reward", values, np.dtype(np.float64), "a number")


def flags(name: str, values: Sequence[Any]) -> NDArray[np.bool_]:
    """N flags, booleans or arrays with one entry, as an array [N]; others raise `Refused`."""
    return _scalars(name, values, np.dtype(np.bool_), "true or false")


def as_float32(name: str, rows: NDArray[Any], checked: bool) -> NDArray[np.float32]:
    """`rows` [N, ...] as float32; if `checked`, `Refused` for a row with NaN or infinity.

    A number beyond the range of float32 becomes infinite.
    """
    if rows.dtype.kind != "f" or not (checked or rows.dtype == np.float64):
        return rows.astype(np.float32, copy=False)
    # One reduction without a temporary array, in half the time of `np.isfinite(rows).all()`.
    if float(np.vdot(rows, rows)) < FINITE:
        return rows.astype(np.float32, copy=False)
    with np.errstate(over="ignore"):
        cast = rows.astype(np.float32, copy=False)
    if checked:
        check(name, rows, np.isfinite(cast), "a finite float32")
    return cast


def check(name: str, rows: NDArray[Any], fine: NDArray[np.bool_], right: Space | str) -> None:
    """Raise `Refused` for the first of these rows that is not `fine` everywhere."""
    if fine.all():
        return
    row = int(np.flatnonzero(~fine.reshape(len(fine), -1).all(axis=1))[0])
    value = rows[row]
    if value.size > SHOWN_ENTRIES:
        index = tuple(np.argwhere(~fine[row])[0].tolist())
        name, value = f"{name}{list(index)}", value[index]
    raise Refused(row, f"{name} is {_shown(value)}, not {_text(right)}")


def _shown(value: Any) -> str:
    """An array as nested lists of numbers as short as their precision allows."""
    if np.ndim(value) == 0:
        return str(value)
    return f"[{', '.join(map(_shown, value))}]"


def _text(right: Space | str) -> str:
    return right if isinstance(right, str) else f"in {short(right)}"


def _scalars(name: str, values: Sequence[Any], dtype: np.dtype, right: str) -> NDArray[Any]:
    try:
        rows = np.array(values)
    except ValueError:  # different shapes
        rows = np.empty(())
    if rows.ndim != 1 or rows.dtype.kind not in KINDS:
        rows = _rows(name, (), [_entry(value) for value in values], right)
    return rows if rows.dtype == dtype else _cast(name, rows, dtype, right)


def _entry(value: Any) -> Any:
    """The entry of an array or list of one entry; other values as they are."""
    try:
        array = np.asarray(value)
    except ValueError:
        return value
    return array.reshape(()) if array.size == 1 and array.dtype.kind in KINDS else value


def _cast(name: str, rows: NDArray[Any], dtype: np.dtype, right: Space | str) -> NDArray[Any]:
    """`rows` as `dtype`; `Refused` if that changes the value of a boolean or an integer."""
    with np.errstate(over="ignore", invalid="ignore"):
        cast = rows.astype(dtype)
    if dtype.kind != "f":
        check(name, rows, cast == rows, right)
    return cast


def _rows(
    name: str, shape: tuple[int, ...], samples: Sequence[Any], right: Space | str
) -> NDArray[Any]:
    """The samples as one array; `Refused` for the first one of another kind or shape."""
    for row, sample in enumerate(samples):
        try:
            array = np.asarray(sample)
        except ValueError:
            reason = f"{name} has parts of different shapes, not {_text(right)}"
            raise Refused(row, reason) from None
        if array.dtype.kind not in KINDS:
            raise Refused(row, f"{name} is {_brief(sample)}, not {_text(right)}")
        if array.shape != shape:
            wanted = right if isinstance(right, str) else f"{list(shape)} as in {short(right)}"
            raise Refused(row, f"{name} has shape {list(array.shape)}, not {wanted}")
    return np.stack([np.asarray(sample) for sample in samples])


def _brief(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else f"a {type(value).__name__}"
